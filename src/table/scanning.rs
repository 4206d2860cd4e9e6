//! The store of a table as the `iceberg` crate reads it in a scan: manifests come with names of partition
//! fields that it finds, see [`super::partition_names`]. Everything else is the store's own.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use iceberg::Result;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage,
    StorageConfig, StorageFactory,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::partition_names::readable;

/// How manifests and their lists end.
const AVRO: &str = ".avro";

/// The same store, for a scan.
pub(super) fn for_scan(io: &FileIO) -> FileIO {
    FileIOBuilder::new(Arc::new(ScanStore(io.clone()))).build()
}

#[derive(Clone, Debug)]
struct ScanStore(FileIO);

/// The crate wants stores that can be sent to other processes; this one never leaves its own.
const STAYS: &str = "a store for a scan stays in its process";

impl Serialize for ScanStore {
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(STAYS))
    }
}

impl<'de> Deserialize<'de> for ScanStore {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Err(serde::de::Error::custom(STAYS))
    }
}

#[typetag::serde]
impl StorageFactory for ScanStore {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde]
impl Storage for ScanStore {
    async fn exists(&self, path: &str) -> Result<bool> {
        self.0.exists(path).await
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        self.0.new_input(path)?.metadata().await
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        let bytes = self.0.new_input(path)?.read().await?;
        if !path.ends_with(AVRO) {
            return Ok(bytes);
        }
        Ok(match readable(&bytes) {
            Cow::Borrowed(_) => bytes,
            Cow::Owned(renamed) => renamed.into(),
        })
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        self.0.new_input(path)?.reader().await
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.0.new_output(path)?.write(bytes).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        self.0.new_output(path)?.writer().await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.0.delete(path).await
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        self.0.delete_prefix(path).await
    }

    async fn delete_stream(&self, paths: BoxStream<'static, String>) -> Result<()> {
        self.0.delete_stream(paths).await
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        self.0.new_output(path)
    }
}
