//! The key of an object -> the field of a struct: first the one that followed in the last record,
//! then a hash table.

use super::error::RecordError;
use super::scan::{Scanner, Step};

/// Bytes of a key that are compared as one integer.
const HEAD: usize = 16;

/// The names of a struct's fields.
#[derive(Debug)]
pub(super) struct FieldNames {
    names: Vec<Name>,
    /// Open addressing, a power of two long, at most half full: field index + 1, or 0.
    table: Vec<u32>,
    /// The field that followed each field in the last record; the first one at the end.
    successors: Vec<usize>,
}

#[derive(Debug)]
struct Name {
    text: Box<str>,
    /// `"name":` as compact JSON has it; empty if the name needs escapes.
    quoted: Box<[u8]>,
    /// The first bytes of `quoted`, zero-padded, and the mask of those that count.
    head: u128,
    mask: u128,
}

impl Name {
    fn new(text: &str) -> Self {
        let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
        let quoted = if plain { format!("\"{text}\":").into_bytes() } else { Vec::new() };
        let mut head = [0; HEAD];
        let mut mask = [0; HEAD];
        for ((byte, mask), quoted) in head.iter_mut().zip(&mut mask).zip(&quoted) {
            *byte = *quoted;
            *mask = 0xFF;
        }
        Self {
            text: text.into(),
            quoted: quoted.into(),
            head: u128::from_le_bytes(head),
            mask: u128::from_le_bytes(mask),
        }
    }

    /// Does `text` begin with this name, quoted, and a colon?
    #[inline]
    fn begins(&self, text: &[u8]) -> bool {
        let Some(head) = text.first_chunk::<HEAD>() else {
            return !self.quoted.is_empty() && text.starts_with(&self.quoted);
        };
        // The mask of a name that needs escapes is 0, its head 0: refused by the length.
        (u128::from_le_bytes(*head) ^ self.head) & self.mask == 0
            && match self.quoted.get(HEAD..) {
                Some(tail) => text.get(HEAD..).is_some_and(|text| text.starts_with(tail)),
                None => !self.quoted.is_empty(),
            }
    }
}

impl FieldNames {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<Name> = names.map(Name::new).collect();
        let mut table = vec![0u32; (names.len() * 2).next_power_of_two().max(2)];
        let mask = table.len() - 1;
        for (index, name) in (1u32..).zip(&names) {
            let mut at = hash(name.text.as_bytes()) & mask;
            while table.get(at).is_some_and(|entry| *entry != 0) {
                at = (at + 1) & mask;
            }
            if let Some(entry) = table.get_mut(at) {
                *entry = index;
            }
        }
        let successors = (1..=names.len()).chain([0]).collect();
        Self { names, table, successors }
    }

    /// What is before the first field, for [`FieldNames::read_key`].
    #[inline]
    pub(super) fn start(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, field: usize) -> &str {
        self.names.get(field).map_or("", |name| &name.text)
    }

    /// Reads a key and the colon after it: the field of that name, or none. `previous` is the
    /// last field found in this object, or [`FieldNames::start`].
    #[inline]
    pub(super) fn read_key(&mut self, s: &mut Scanner<'_>, previous: usize) -> Step<Option<usize>> {
        if let Some(&guess) = self.successors.get(previous)
            && let Some(name) = self.names.get(guess)
            && name.begins(s.rest())
        {
            s.advance(name.quoted.len());
            return Ok(Some(guess));
        }
        self.read_unexpected_key(s, previous)
    }

    fn read_unexpected_key(&mut self, s: &mut Scanner<'_>, previous: usize) -> Step<Option<usize>> {
        let key = s.key()?;
        let field = if key.escaped { self.find(&key.text()) } else { self.find(key.bytes) };
        if let (Some(field), Some(successor)) = (field, self.successors.get_mut(previous)) {
            *successor = field;
        }
        Ok(field)
    }

    /// The field of exactly this name.
    #[inline]
    fn find(&self, key: &[u8]) -> Option<usize> {
        let mask = self.table.len() - 1;
        let mut at = hash(key) & mask;
        loop {
            let field = (*self.table.get(at)?).checked_sub(1)? as usize;
            if self.names.get(field)?.text.as_bytes() == key {
                return Some(field);
            }
            at = (at + 1) & mask;
        }
    }

    /// A fault in the value of `field`, seen from the struct.
    #[cold]
    pub(super) fn fault(&self, field: usize, fault: Box<RecordError>) -> Box<RecordError> {
        fault.in_field(self.name(field))
    }
}

/// Eight bytes at a time. Names come from the table's schema and keys are only looked up, so
/// nobody can fill the table with collisions.
#[inline]
fn hash(key: &[u8]) -> usize {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    let mut hash = key.len() as u64;
    let (words, tail) = key.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    if let Some(last) = key.last_chunk::<8>() {
        // Overlaps what was mixed before, which does no harm.
        hash = mix(hash, u64::from_le_bytes(*last));
    } else if let (Some(first), Some(last)) = (tail.first_chunk::<4>(), tail.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        hash = mix(hash, (u64::from(first) << 32) | u64::from(last));
    } else {
        hash = mix(hash, tail.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)));
    }
    // The high bits of a product are its best ones.
    (hash >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &mut FieldNames, text: &str, previous: usize) -> Option<usize> {
        let padded = [text, " \"some value\"               "];
        for text in [text.to_owned(), padded.concat()] {
            let mut s = Scanner::new(text.as_bytes());
            let field = names.read_key(&mut s, previous).unwrap();
            assert!(s.pos() <= text.len());
            if text == padded.concat() {
                return field;
            }
        }
        None
    }

    #[test]
    fn keys_match_exactly_and_never_by_prefix() {
        let mut names = FieldNames::new(
            ["a", "ab", "a_name_of_more_than_sixteen_bytes", "", "é", "q\"x"].into_iter(),
        );
        for start in 0..=6 {
            assert_eq!(read(&mut names, r#""a":"#, start), Some(0));
            assert_eq!(read(&mut names, r#""ab" :"#, start), Some(1));
            assert_eq!(read(&mut names, r#""a_name_of_more_than_sixteen_bytes":"#, start), Some(2));
            assert_eq!(read(&mut names, r#""a_name_of_more_than_sixteen_byteS":"#, start), None);
            assert_eq!(read(&mut names, r#""a_name_of_more":"#, start), None);
            assert_eq!(read(&mut names, r#""":"#, start), Some(3));
            assert_eq!(read(&mut names, r#""é":"#, start), Some(4));
            assert_eq!(read(&mut names, r#""q\"x":"#, start), Some(5));
            assert_eq!(read(&mut names, r#""\u0061b":"#, start), Some(1));
            assert_eq!(read(&mut names, r#""A":"#, start), None);
        }
    }

    #[test]
    fn a_hundred_similar_names_are_all_found() {
        let all: Vec<String> =
            (0..100).map(|i| format!("sensor_temperature_{i:03}_reading")).collect();
        let mut names = FieldNames::new(all.iter().map(String::as_str));
        for (index, name) in all.iter().enumerate().rev() {
            assert_eq!(read(&mut names, &format!("\"{name}\":"), 100), Some(index));
        }
    }
}
