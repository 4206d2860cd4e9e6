//! What fuzzing does with the decoder, see [`crate::fuzzing`].

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use serde::de::IgnoredAny;

use super::{Decoder, Format, Pushed, Reason};

/// A column of each type and of each way to nest them, none required.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let schema = serde_json::from_str::<iceberg::spec::Schema>(include_str!("fuzzing.json"));
    let schema = schema.map(|schema| iceberg::arrow::schema_to_arrow_schema(&schema));
    let Ok(Ok(schema)) = schema else { unreachable!("{schema:?}") };
    Arc::new(schema)
});

fn decoder_of(schema: &Schema) -> Decoder {
    let decoder = Decoder::new(Format::Json, schema);
    let Ok(decoder) = decoder else { unreachable!("{decoder:?}") };
    decoder
}

fn finish(decoder: &mut Decoder) -> RecordBatch {
    let batch = decoder.finish().and_then(|columns| RecordBatch::try_new(SCHEMA.clone(), columns));
    let Ok(batch) = batch else { unreachable!("{batch:?}") };
    assert_eq!((decoder.rows(), decoder.buffered_bytes()), (0, 0));
    batch
}

/// Payloads, one on a line. What is accepted is JSON by a second parser, and the other way round; a
/// bad record leaves no trace; a row is the same whatever came before and behind it.
pub(crate) fn decoder(data: &[u8]) {
    let (mut all, mut alone) = (decoder_of(&SCHEMA), decoder_of(&SCHEMA));
    let mut rows = Vec::new();
    for payload in data.split(|byte| *byte == b'\n') {
        let before = (all.rows(), all.buffered_bytes());
        let pushed = all.push(payload);
        assert_eq!(alone.push(payload), pushed);
        match pushed {
            Pushed::Row => {
                assert_eq!(all.rows(), before.0 + 1);
                assert!(is_json(payload), "accepted, but it is no JSON");
                rows.push(finish(&mut alone));
            }
            Pushed::Bad(error) => {
                assert_eq!((all.rows(), all.buffered_bytes()), before, "a trace of {error}");
                let syntax = matches!(error.reason, Reason::NotJson | Reason::NotUtf8);
                // The other parser does not look for lone surrogates in what it ignores.
                let surrogate = payload.windows(2).any(|pair| pair == b"\\u");
                assert!(!syntax || surrogate || !is_json(payload), "{error}");
            }
            Pushed::Full | Pushed::Needs(_) => unreachable!("{pushed:?}"),
        }
    }
    let batch = finish(&mut all);
    assert_eq!(batch.num_rows(), rows.len());
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(batch.slice(at, 1), *row, "row {at}");
    }
}

fn is_json(payload: &[u8]) -> bool {
    let text = std::str::from_utf8(payload);
    text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}
