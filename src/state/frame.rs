//! The frame around each value: `ICES`, format version (u16), payload (JSON), CRC-32C (u32) of
//! everything before it. Numbers stand with their big end first.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this program writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u16 = 2;
/// The oldest that it reads. What changed since lies under other keys ([`super::format_1`]).
pub(super) const OLDEST_VERSION: u16 = 1;

const MAGIC: &[u8; 4] = b"ICES";
const CRC_LENGTH: usize = 4;

/// Why a value could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    /// Written by a newer version of this program.
    Newer(u16),
    /// Not a frame, damaged, or not the record that belongs here.
    Damaged(String),
}

/// The value of a record.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    encode_as(FORMAT_VERSION, record)
}

/// The value of a record in a store of the format `version`, in which it was the same.
pub(super) fn encode_as<T: Serialize>(
    version: u16,
    record: &T,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&version.to_be_bytes());
    serde_json::to_writer(&mut bytes, record)?;
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    Ok(bytes)
}

/// The record in `bytes`. The version is looked at last but one, after the checksum: a damaged
/// version is damage, not a newer program.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let (_, payload) = open(bytes)?;
    serde_json::from_slice(payload).map_err(|error| FrameError::Damaged(error.to_string()))
}

/// The version of the value in `bytes`.
pub(super) fn version(bytes: &[u8]) -> Result<u16, FrameError> {
    open(bytes).map(|(version, _)| version)
}

/// Version and payload.
fn open(bytes: &[u8]) -> Result<(u16, &[u8]), FrameError> {
    let damaged = |detail: &str| FrameError::Damaged(detail.to_owned());
    let (framed, crc) =
        bytes.split_last_chunk::<CRC_LENGTH>().ok_or_else(|| damaged("it is too short"))?;
    let rest = framed.strip_prefix(MAGIC).ok_or_else(|| damaged("it has a foreign beginning"))?;
    if crc32c::crc32c(framed) != u32::from_be_bytes(*crc) {
        return Err(damaged("its checksum is wrong"));
    }
    let (version, payload) =
        rest.split_first_chunk().ok_or_else(|| damaged("it has no version"))?;
    match u16::from_be_bytes(*version) {
        known @ OLDEST_VERSION..=FORMAT_VERSION => Ok((known, payload)),
        newer if newer > FORMAT_VERSION => Err(FrameError::Newer(newer)),
        older => Err(FrameError::Damaged(format!("its version {older} never existed"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_version(version: u16) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend(b"5");
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        assert_eq!(decode::<u8>(&with_version(1)), Ok(5));
        assert_eq!(decode::<u8>(&with_version(2)), Ok(5));
        assert_eq!(decode::<u8>(&with_version(3)), Err(FrameError::Newer(3)));
        assert!(matches!(decode::<u8>(&with_version(0)), Err(FrameError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_are_read_as_a_record_that_was_not_written(bytes: Vec<u8>) {
            prop_assert!(decode::<String>(&bytes).is_err());
        }

        #[test]
        fn any_changed_byte_is_found(
            text in ".*", at in any::<prop::sample::Index>(), change in 1u8..,
        ) {
            let mut bytes = encode(&text).unwrap();
            prop_assert_eq!(decode::<String>(&bytes), Ok(text));
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(matches!(decode::<String>(&bytes), Err(FrameError::Damaged(_))));
        }
    }
}
