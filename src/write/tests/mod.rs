//! The writer on local files, read back by other code than its own.

mod codec;
mod fan_out;
mod files;
mod gathering;
mod partitions;
mod properties;
mod round_trip;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, NestedField, NestedFieldRef, PrimitiveType, Schema, SortOrder,
    TableMetadata, TableMetadataBuilder, Transform, Type, UnboundPartitionSpec,
    deserialize_data_file_from_json,
};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{TableWriter, WriteSettings};
use crate::protocol::PendingFile;

/// A table in a directory of its own, and a runtime for its files.
struct Table {
    directory: TempDir,
    runtime: Runtime,
    metadata: Arc<TableMetadata>,
}

impl Table {
    fn new(
        fields: Vec<NestedField>,
        spec: &[(i32, &str, Transform)],
        properties: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fields: Vec<NestedFieldRef> = fields.into_iter().map(Arc::new).collect();
        let schema = Schema::builder().with_fields(fields).build().unwrap();
        let mut unbound = UnboundPartitionSpec::builder();
        for (source, name, transform) in spec {
            unbound = unbound.add_partition_field(*source, *name, *transform).unwrap();
        }
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let metadata = TableMetadataBuilder::new(
            schema,
            unbound.build(),
            SortOrder::unsorted_order(),
            format!("file://{}/t", directory.path().display()),
            FormatVersion::V2,
            properties.collect::<HashMap<_, _>>(),
        )
        .unwrap()
        .build()
        .unwrap()
        .metadata;
        let runtime = Runtime::new().unwrap();
        Self { directory, runtime, metadata: Arc::new(metadata) }
    }

    /// Two columns, an id and a text.
    fn of_ids(spec: &[(i32, &str, Transform)], properties: &[(&str, &str)]) -> Self {
        let fields = vec![
            required(1, "id", PrimitiveType::Long),
            optional(2, "note", PrimitiveType::String),
        ];
        Self::new(fields, spec, properties)
    }

    fn writer(&self, settings: WriteSettings) -> TableWriter {
        let metadata = Arc::clone(&self.metadata);
        let file_io = FileIO::new_with_fs();
        TableWriter::new(metadata, file_io, settings, self.runtime.handle().clone()).unwrap()
    }

    fn batch(&self, columns: Vec<ArrayRef>) -> RecordBatch {
        let schema = schema_to_arrow_schema(self.metadata.current_schema()).unwrap();
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn ids(&self, ids: impl IntoIterator<Item = i64>) -> RecordBatch {
        let ids: Vec<i64> = ids.into_iter().collect();
        let notes: StringArray = ids.iter().map(|id| Some(format!("note {id}"))).collect();
        self.batch(vec![Arc::new(Int64Array::from(ids)), Arc::new(notes)])
    }

    /// Writes `batch` with the usual settings.
    fn write(&self, batch: &RecordBatch) -> Vec<PendingFile> {
        let mut writer = self.writer(WriteSettings::new("i-1-0"));
        writer.write(batch).unwrap();
        writer.close().unwrap().wait().unwrap()
    }

    /// What a manifest would be made from.
    fn data_file(&self, file: &PendingFile) -> DataFile {
        let spec = self.metadata.default_partition_spec();
        let schema = self.metadata.current_schema();
        let partition_type = spec.partition_type(schema).unwrap();
        deserialize_data_file_from_json(&file.data_file, file.spec_id, &partition_type, schema)
            .unwrap()
    }

    /// The rows of a file, by the Parquet crate's reader.
    fn read(&self, file: &PendingFile) -> RecordBatch {
        let schema = schema_to_arrow_schema(self.metadata.current_schema()).unwrap();
        let schema = Arc::new(schema);
        let options = ArrowReaderOptions::new().with_schema(Arc::clone(&schema));
        let opened = File::open(local(&file.path)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(opened, options);
        let batches: Vec<_> =
            reader.unwrap().build().unwrap().map(|batch| batch.unwrap()).collect();
        arrow::compute::concat_batches(&schema, &batches).unwrap()
    }

    /// Every file under the table, wherever it lies.
    fn files_on_disk(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory.path().to_path_buf()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { directories.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}

fn local(location: &str) -> &Path {
    Path::new(location.strip_prefix("file://").unwrap())
}

fn optional(id: i32, name: &str, kind: PrimitiveType) -> NestedField {
    NestedField::optional(id, name, Type::Primitive(kind))
}

fn required(id: i32, name: &str, kind: PrimitiveType) -> NestedField {
    NestedField::required(id, name, Type::Primitive(kind))
}
