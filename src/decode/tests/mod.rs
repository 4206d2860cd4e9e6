//! Tests of the decoder through its public face, on schemas made by the iceberg crate.

mod generated;
mod mutated;
mod nested;
mod reference;
mod rows;
mod types;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use serde_json::{Value, json};

use super::{Decoder, Format, Pushed, Reason, RecordError};

/// The Arrow schema of an Iceberg table with these fields: `(name, required, type)`.
fn schema(fields: &[(&str, bool, Value)]) -> Schema {
    let fields: Vec<Value> = (1..)
        .zip(fields)
        .map(|(id, (name, required, data_type))| {
            json!({"id": id, "name": name, "required": required, "type": data_type})
        })
        .collect();
    let schema = json!({"type": "struct", "schema-id": 0, "fields": fields});
    let schema: iceberg::spec::Schema = serde_json::from_value(schema).unwrap();
    schema_to_arrow_schema(&schema).unwrap()
}

/// A decoder and what it must produce.
struct Table {
    schema: SchemaRef,
    decoder: Decoder,
}

impl Table {
    fn new(fields: &[(&str, bool, Value)]) -> Self {
        Self::of(schema(fields))
    }

    fn of(schema: Schema) -> Self {
        let decoder = Decoder::new(Format::Json, &schema).unwrap();
        Self { schema: Arc::new(schema), decoder }
    }

    fn push(&mut self, payload: impl AsRef<[u8]>) -> Result<(), RecordError> {
        match self.decoder.push(payload.as_ref()) {
            Pushed::Row => Ok(()),
            Pushed::Bad(error) => Err(error),
            other @ (Pushed::Full | Pushed::Needs(_)) => panic!("{other:?}"),
        }
    }

    fn reason(&mut self, payload: impl AsRef<[u8]>) -> Option<Reason> {
        self.push(payload).err().map(|fault| fault.reason)
    }

    /// Finishes into a batch, which checks every array against the schema.
    fn finish(&mut self) -> RecordBatch {
        RecordBatch::try_new(self.schema.clone(), self.decoder.finish().unwrap()).unwrap()
    }
}

/// The one value of a required column `v` of this type, read from this JSON text.
fn read(data_type: &Value, value: &str) -> Result<ArrayRef, Reason> {
    let mut table = Table::new(&[("v", true, data_type.clone())]);
    table.push(format!("{{\"v\":{value}}}")).map_err(|fault| fault.reason)?;
    let batch = table.finish();
    assert_eq!(batch.num_rows(), 1);
    Ok(batch.column(0).clone())
}

/// Reads every text into a column of the type and compares with the array of one value.
fn accepts<A: Array + PartialEq + std::fmt::Debug + 'static>(data_type: &str, cases: &[(&str, A)]) {
    for (text, expected) in cases {
        let found = read(&json!(data_type), text).unwrap_or_else(|r| panic!("{text}: {r}"));
        assert_eq!(found.as_any().downcast_ref::<A>().unwrap(), expected, "{data_type} {text}");
    }
}

fn refuses(data_type: &str, reason: Reason, texts: &[&str]) {
    for text in texts {
        assert_eq!(read(&json!(data_type), text).err(), Some(reason), "{data_type} {text}");
    }
}
