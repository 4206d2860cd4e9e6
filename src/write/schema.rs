//! One table schema in the three shapes that a data file needs: Iceberg, Arrow and Parquet.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{PrimitiveType, Schema, SchemaRef, Type};
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::LogicalType;
use parquet::errors::ParquetError;
use parquet::schema::types::{
    BasicTypeInfo, ColumnPath, SchemaDescriptor, Type as ParquetType, TypePtr,
};

use super::WriteError;

/// One table schema in the three shapes that a data file needs.
#[derive(Debug)]
pub(super) struct FileSchema {
    pub(super) iceberg: SchemaRef,
    pub(super) arrow: ArrowSchemaRef,
    pub(super) parquet: SchemaDescriptor,
}

impl FileSchema {
    pub(super) fn new(iceberg: SchemaRef) -> Result<Self, WriteError> {
        let arrow = schema_to_arrow_schema(&iceberg)
            .map_err(|source| WriteError::Metadata(Box::new(source)))?;
        let parquet = parquet_schema(&iceberg, &arrow).map_err(|source| {
            WriteError::Unsupported { reason: format!("its schema has no Parquet form: {source}") }
        })?;
        Ok(Self { iceberg, arrow: Arc::new(arrow), parquet })
    }

    /// The Parquet column of the field with this name in the table, if that is a primitive.
    pub(super) fn parquet_column(&self, name: &str) -> Option<ColumnPath> {
        let id = self.iceberg.field_by_name(name)?.id;
        let columns = self.parquet.columns().iter();
        let named = |info: &BasicTypeInfo| info.has_id() && info.id() == id;
        columns
            .filter(|column| named(column.self_type().get_basic_info()))
            .map(|column| column.path().clone())
            .next()
    }

    /// `batch` under our own Arrow schema, if its columns are those of the table, in order.
    pub(super) fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch, WriteError> {
        if Arc::ptr_eq(batch.schema_ref(), &self.arrow) {
            return Ok(batch.clone());
        }
        if batch.num_columns() != self.arrow.fields().len() {
            let (has, wants) = (batch.num_columns(), self.arrow.fields().len());
            return Err(self.mismatch(format!("it has {has} columns, the table has {wants}")));
        }
        for (field, expected) in batch.schema_ref().fields().iter().zip(self.arrow.fields()) {
            if field.name() != expected.name() {
                let (has, wants) = (field.name(), expected.name());
                return Err(self.mismatch(format!("it has column {has} where {wants} should be")));
            }
        }
        // Checks types, and nulls in required columns; its words name the column.
        RecordBatch::try_new(Arc::clone(&self.arrow), batch.columns().to_vec())
            .map_err(|source| self.mismatch(source.to_string()))
    }

    fn mismatch(&self, reason: String) -> WriteError {
        WriteError::SchemaMismatch { schema_id: self.iceberg.schema_id(), reason }
    }
}

fn parquet_schema(
    iceberg: &Schema,
    arrow: &arrow::datatypes::Schema,
) -> Result<SchemaDescriptor, ParquetError> {
    let converted = ArrowSchemaConverter::new().schema_root("table").convert(arrow)?;
    let root = with_uuids(iceberg, &converted.root_schema_ptr())?;
    Ok(SchemaDescriptor::new(root))
}

/// The same type with the logical type that Iceberg asks for on `uuid` columns, which Arrow does
/// not know: strict readers refuse to read a plain `fixed[16]` as a uuid.
fn with_uuids(iceberg: &Schema, node: &TypePtr) -> Result<TypePtr, ParquetError> {
    let info = node.get_basic_info();
    match node.as_ref() {
        ParquetType::PrimitiveType { physical_type, type_length, .. } => {
            if !info.has_id() || !is_uuid(iceberg, info.id()) {
                return Ok(Arc::clone(node));
            }
            let uuid = ParquetType::primitive_type_builder(info.name(), *physical_type)
                .with_length(*type_length)
                .with_repetition(info.repetition())
                .with_logical_type(Some(LogicalType::Uuid))
                .with_id(Some(info.id()))
                .build()?;
            Ok(Arc::new(uuid))
        }
        ParquetType::GroupType { fields, .. } => {
            let fields = fields.iter().map(|field| with_uuids(iceberg, field));
            let mut group = ParquetType::group_type_builder(info.name())
                .with_fields(fields.collect::<Result<_, _>>()?)
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_id(info.has_id().then(|| info.id()));
            if info.has_repetition() {
                group = group.with_repetition(info.repetition());
            }
            Ok(Arc::new(group.build()?))
        }
    }
}

fn is_uuid(schema: &Schema, field_id: i32) -> bool {
    let field = schema.field_by_id(field_id);
    field.is_some_and(|field| *field.field_type == Type::Primitive(PrimitiveType::Uuid))
}
