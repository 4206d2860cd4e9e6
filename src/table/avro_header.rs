//! The header of an Avro file, read and written without its rows.

use std::collections::HashMap;

const MAGIC: &[u8] = b"Obj\x01";
const SYNC: usize = 16;

/// The header of an Avro file: entries, and how long it is.
pub(super) struct Header {
    entries: Vec<(String, Vec<u8>)>,
    length: usize,
}

impl Header {
    /// `None` if these bytes do not begin with one.
    pub(super) fn parse(file: &[u8]) -> Option<Self> {
        let mut rest = file.strip_prefix(MAGIC)?;
        let mut entries = Vec::new();
        loop {
            let count = long(&mut rest)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // The size of the block in bytes, for those who skip it.
                long(&mut rest)?;
            }
            for _ in 0..count.unsigned_abs() {
                let name = String::from_utf8(bytes(&mut rest)?.to_vec()).ok()?;
                entries.push((name, bytes(&mut rest)?.to_vec()));
            }
        }
        (rest.len() >= SYNC).then(|| Self { entries, length: file.len() - rest.len() })
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    pub(super) fn into_entries(self) -> HashMap<String, Vec<u8>> {
        self.entries.into_iter().collect()
    }

    pub(super) fn set(&mut self, name: &str, value: Vec<u8>) {
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.entries.push((name.to_owned(), value)),
        }
    }

    /// The file with this header in place of its own.
    pub(super) fn write(&self, file: &[u8]) -> Vec<u8> {
        let mut written = MAGIC.to_vec();
        if !self.entries.is_empty() {
            put_long(&mut written, self.entries.len());
        }
        for part in self.entries.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
            put_long(&mut written, part.len());
            written.extend_from_slice(part);
        }
        put_long(&mut written, 0);
        written.extend_from_slice(file.get(self.length..).unwrap_or_default());
        written
    }
}

/// Avro's number: seven bits a byte, the sign in the lowest.
fn long(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            let half = i64::try_from(value >> 1).ok()?;
            return Some(if value & 1 == 0 { half } else { -half - 1 });
        }
    }
    None
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(long(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn put_long(out: &mut Vec<u8>, value: usize) {
    let mut left = (value as u64) << 1;
    loop {
        let [low, ..] = left.to_le_bytes();
        left >>= 7;
        if left == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_written_as_it_was_read(
            entries in proptest::collection::vec(("[a-z.]{0,20}", proptest::collection::vec(any::<u8>(), 0..300)), 0..5),
            rest in proptest::collection::vec(any::<u8>(), SYNC..100),
        ) {
            let header = Header { entries: entries.clone(), length: 0 };
            let file = header.write(&rest);
            let parsed = Header::parse(&file).unwrap();
            prop_assert_eq!(&parsed.entries, &entries);
            prop_assert_eq!(&file[parsed.length..], &rest[..]);
            prop_assert_eq!(parsed.write(&file), file.clone());
            for end in 0..parsed.length + SYNC - 1 {
                prop_assert!(Header::parse(&file[..end]).is_none());
            }
        }
    }

    #[test]
    fn a_block_with_its_size_and_several_blocks_are_read() {
        let mut file = MAGIC.to_vec();
        // -1 entries in 4 bytes: a=b; then one entry: c=; then the end.
        file.extend([0x01, 0x08, 0x02, b'a', 0x02, b'b', 0x02, 0x02, b'c', 0x00, 0x00]);
        file.extend([7; SYNC]);
        let header = Header::parse(&file).unwrap();
        let entries = [(String::from("a"), b"b".to_vec()), (String::from("c"), Vec::new())];
        assert_eq!(header.entries, entries);
        assert_eq!(header.length, file.len() - SYNC);
    }
}
