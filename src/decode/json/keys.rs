//! The key of an object -> the field of a struct: first the one that followed in an earlier
//! record, then the one that four bytes of the key tell, then a hash table.

use arrow::datatypes::{FieldRef, Fields};

use super::scan::Scanner;
use crate::decode::columns::StructField;
use crate::decode::error::{RecordError, Step};
use crate::decode::simd::{BLOCK, equal_prefix};

/// The key of a field.
#[derive(Debug)]
pub(super) struct Key {
    name: Name,
    /// The last object that had this field.
    pub met_in: u64,
}

/// A field of a struct, with its key.
pub(super) type Field = StructField<Key, Keys>;

/// What finds the fields of a struct by their names in an object.
#[derive(Debug)]
pub(super) struct Keys {
    /// Open addressing, a power of two long, at most a quarter full: field index + 1, or 0.
    slots: Vec<u32>,
    shortcut: Shortcut,
    /// The field that begins an object.
    first: usize,
    /// The number of the object being read, to tell which of its fields were met.
    object: u64,
}

#[derive(Debug)]
struct Name {
    /// The first bytes of `"name":`, as compact JSON has it, and zeros after them.
    head: [u8; BLOCK],
    /// Bytes of all of `"name":`; 0 if the name needs escapes.
    length: usize,
    /// The field that comes after this one.
    next: usize,
    text: Box<str>,
}

impl Name {
    fn new(text: &str, next: usize) -> Self {
        let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
        let quoted = if plain { format!("\"{text}\":") } else { String::new() };
        let mut head = [0; BLOCK];
        head.iter_mut().zip(quoted.bytes()).for_each(|(byte, quoted)| *byte = quoted);
        Self { head, length: quoted.len(), next, text: text.into() }
    }

    /// Where the value begins if this name is at `at`, quoted, and a colon.
    #[inline(always)]
    fn read(&self, s: &Scanner<'_>, at: usize) -> Option<usize> {
        let equal = equal_prefix(s.window(at), &self.head);
        let found = if (1..=BLOCK).contains(&self.length) {
            equal >= self.length
        } else {
            equal == BLOCK && self.is_long_and_at(s, at)
        };
        found.then_some(at + self.length)
    }

    #[inline(never)]
    fn is_long_and_at(&self, s: &Scanner<'_>, at: usize) -> bool {
        let rest = s.rest(at).strip_prefix(b"\"");
        let rest = rest.and_then(|rest| rest.strip_prefix(self.text.as_bytes()));
        self.length > BLOCK && rest.is_some_and(|rest| rest.starts_with(b"\":"))
    }
}

/// A place between two fields of an object that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The last field found; none at the start.
    pub after: usize,
    /// The field that is expected next.
    expected: usize,
}

impl Keys {
    /// The keys of fields, in their order, and what finds them.
    pub(super) fn of(fields: &Fields) -> (Vec<Key>, Self) {
        let named = |(field, next): (&FieldRef, usize)| Key {
            name: Name::new(field.name(), next),
            met_in: 0,
        };
        let keys: Vec<Key> = fields.iter().zip(1..).map(named).collect();
        let mut slots = vec![0; (keys.len() * 4).next_power_of_two()];
        let mask = slots.len() - 1;
        for (index, key) in (1..).zip(&keys) {
            let mut at = hash(key.name.text.as_bytes()) & mask;
            while slots.get(at).is_some_and(|slot| *slot != 0) {
                at = (at + 1) & mask;
            }
            if let Some(slot) = slots.get_mut(at) {
                *slot = index;
            }
        }
        let shortcut = Shortcut::new(&keys);
        (keys, Self { slots, shortcut, first: 0, object: 0 })
    }

    /// Another object begins: its number, and the place before its first field.
    #[inline]
    pub(super) fn begin(&mut self) -> (u64, Place) {
        self.object += 1;
        (self.object, Place { after: usize::MAX, expected: self.first })
    }

    /// Reads a key and the colon after it: the field of that name, if there is one, the place in
    /// the object after that, and where the value begins.
    #[inline(always)]
    pub(super) fn read_key<'f>(
        &mut self,
        fields: &'f mut [Field],
        s: &Scanner<'_>,
        at: usize,
        place: Place,
    ) -> Step<(Option<&'f mut Field>, Place, usize)> {
        if let Some(name) = name(fields, place.expected)
            && let Some(at) = name.read(s, at)
        {
            let place = Place { after: place.expected, expected: name.next };
            return Ok((fields.get_mut(place.after), place, at));
        }
        let (found, at) = self.look_up(fields, s, at)?;
        let Some(found) = found else { return Ok((None, place, at)) };
        let place = self.step_to(fields, place, found);
        Ok((fields.get_mut(found), place, at))
    }

    /// The place after the field `found`, which came where another was expected.
    fn step_to(&mut self, fields: &mut [Field], from: Place, found: usize) -> Place {
        // A field that is missing now and then is still the one to expect.
        let missing = name(fields, from.expected).is_some_and(|name| name.next == found);
        if !missing {
            let next = fields.get_mut(from.after).map(|field| &mut field.key.name.next);
            *next.unwrap_or(&mut self.first) = found;
        }
        Place { after: found, expected: name(fields, found).map_or(0, |name| name.next) }
    }

    #[inline(never)]
    fn look_up(
        &self,
        fields: &[Field],
        s: &Scanner<'_>,
        at: usize,
    ) -> Step<(Option<usize>, usize)> {
        let guess = self.shortcut.guess(s, at);
        if let Some(at) = name(fields, guess).and_then(|name| name.read(s, at)) {
            return Ok((Some(guess), at));
        }
        let (key, at) = s.key(at)?;
        Ok((self.find(fields, &key.text()), at))
    }

    /// The field of exactly this name.
    fn find(&self, fields: &[Field], key: &[u8]) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash(key) & mask;
        loop {
            let field = (*self.slots.get(at)?).checked_sub(1)? as usize;
            if name(fields, field)?.text.as_bytes() == key {
                return Some(field);
            }
            at = (at + 1) & mask;
        }
    }
}

#[inline(always)]
fn name(fields: &[Field], field: usize) -> Option<&Name> {
    fields.get(field).map(|field| &field.key.name)
}

/// A fault in the value of a field, seen from the struct.
#[cold]
pub(super) fn fault(fields: &[Field], field: usize, fault: Box<RecordError>) -> Box<RecordError> {
    fault.in_field(name(fields, field).map_or("", |name| &name.text))
}

/// Tells a field from four bytes of its key, at a place where the names differ: a shorter way than
/// to find the end of the key and then its hash.
#[derive(Debug)]
struct Shortcut {
    /// From the opening quote on.
    offset: usize,
    multiplier: u32,
    /// Field index, or `u16::MAX`; a power of two long.
    slots: Vec<u16>,
}

impl Shortcut {
    /// The best of some random ones: the one that tells most fields apart.
    fn new(keys: &[Key]) -> Self {
        let names = || keys.iter().map(|key| &key.name);
        let lengths = names().map(|name| name.length.min(BLOCK)).filter(|length| *length >= 4);
        let shortest = lengths.min().unwrap_or(4);
        let rng = &mut fastrand::Rng::with_seed(0);
        let mut best = Self { offset: 0, multiplier: 1, slots: vec![u16::MAX; 2] };
        let mut most = 0;
        for attempt in 0..64 {
            let slots = vec![u16::MAX; (keys.len() * 16).next_power_of_two().clamp(2, 1 << 16)];
            let offset = attempt % (shortest - 3);
            let mut shortcut = Self { offset, multiplier: rng.u32(..) | 1, slots };
            let mut placed = 0;
            for (field, name) in (0..u16::MAX).zip(names()) {
                let bytes = name.head.get(offset..).and_then(<[u8]>::first_chunk);
                let Some(bytes) = bytes.filter(|_| name.length >= 4) else { continue };
                let slot = shortcut.slot(bytes);
                if let Some(slot @ &mut u16::MAX) = shortcut.slots.get_mut(slot) {
                    *slot = field;
                    placed += 1;
                }
            }
            if placed > most {
                (best, most) = (shortcut, placed);
            }
            if most == keys.len() {
                break;
            }
        }
        best
    }

    #[inline(always)]
    fn slot(&self, bytes: &[u8; 4]) -> usize {
        let product = u32::from_le_bytes(*bytes).wrapping_mul(self.multiplier);
        (product >> 16) as usize & (self.slots.len() - 1)
    }

    /// The field of the key at `at`, or another one, or none.
    #[inline(always)]
    fn guess(&self, s: &Scanner<'_>, at: usize) -> usize {
        let slot = self.slot(s.window(at + self.offset));
        self.slots.get(slot).map_or(usize::MAX, |field| usize::from(*field))
    }
}

/// Eight bytes at a time. Names come from the table's schema and keys are only looked up, so
/// nobody can fill the table with collisions.
fn hash(key: &[u8]) -> usize {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    let (words, tail) = key.as_chunks::<8>();
    let sum = words.iter().fold(key.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let last = tail.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    // The high bits of a product are its best ones.
    (mix(sum, last) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field as ArrowField};

    use super::super::read::StructColumn;
    use super::super::scan::Padded;
    use super::*;
    use crate::decode::columns::Planning;
    use crate::decode::defaults::Defaults;

    const NAMES: [&str; 10] = [
        "a",
        "ab",
        "a_name_of_more_than_thirty-two_bytes",
        "",
        "é",
        "q\"x",
        "twenty-nine_bytes_long_is_it.",
        "a_name_of_more_than_thirty-two_bytez",
        "twenty-nine_bytes_long_is_it..",
        "twenty-nine_bytes_long_is_it...",
    ];

    fn padded(text: &str) -> Padded {
        let mut padded = Padded::default();
        padded.fill(text.as_bytes());
        padded
    }

    /// A struct of fields of these names.
    fn fields<'a>(names: impl Iterator<Item = &'a str>) -> StructColumn {
        let fields = names.map(|name| ArrowField::new(name, DataType::Int64, true)).collect();
        let planning = Planning { keys: Keys::of, defaults: &Defaults::new() };
        StructColumn::plan(&fields, "", 1, &planning).unwrap()
    }

    /// Reads a key with the field that is guessed first, and then with another.
    fn read(of: &mut StructColumn, text: &str, after: usize) -> (Option<usize>, usize) {
        let StructColumn { keys, fields, .. } = of;
        let padded = padded(text);
        let s = Scanner::new(&padded, usize::MAX);
        let [first, again] = [(), ()].map(|()| {
            let expected = name(fields, after).map_or(keys.first, |name| name.next);
            let place = Place { after, expected };
            let (found, place, end) = keys.read_key(fields, &s, 0, place).unwrap();
            let found = found.map(|field| std::ptr::from_ref(field));
            let at = fields.iter().position(|field| Some(std::ptr::from_ref(field)) == found);
            assert_eq!((place.after, found.is_some()), (at.unwrap_or(after), at.is_some()));
            (at, end)
        });
        assert_eq!(first, again);
        first
    }

    #[test]
    fn keys_match_exactly_and_never_by_prefix() {
        let mut names = fields(NAMES.into_iter());
        for start in (0..NAMES.len()).chain([usize::MAX]) {
            for (text, expected) in [
                (r#""a":"#, Some(0)),
                (r#""ab" :"#, Some(1)),
                (r#""ab":"#, Some(1)),
                (r#""a_name_of_more_than_thirty-two_bytes":"#, Some(2)),
                (r#""a_name_of_more_than_thirty-two_byteS":"#, None),
                (r#""a_name_of_more_than_thirty-two_bytez":"#, Some(7)),
                (r#""a_name_of_more_than_thirty":"#, None),
                (r#""twenty-nine_bytes_long_is_it.":"#, Some(6)),
                (r#""twenty-nine_bytes_long_is_it..":"#, Some(8)),
                (r#""twenty-nine_bytes_long_is_it...":"#, Some(9)),
                (r#""twenty-nine_bytes_long_is_it....":"#, None),
                (r#""":"#, Some(3)),
                (r#""é":"#, Some(4)),
                (r#""q\"x":"#, Some(5)),
                (r#""\u0061b":"#, Some(1)),
                (r#""A":"#, None),
                (r#""a\u0000":"#, None),
            ] {
                for after in ["", "1", " \":                                          1"] {
                    let all = format!("{text}{after}");
                    assert_eq!(read(&mut names, &all, start), (expected, text.len()), "{all}");
                }
            }
        }
    }

    #[test]
    fn a_hundred_similar_names_are_all_found_whatever_their_length() {
        for prefix in
            ["", "t", "a_name_of_twenty-eight_bytes", "a_name_of_more_than_thirty-two_bytes"]
        {
            let all: Vec<String> = (0..100).map(|i| format!("{prefix}{i:03}")).collect();
            let mut names = fields(all.iter().map(String::as_str));
            for (index, name) in all.iter().enumerate().rev() {
                let (first, rest) = name.split_at(1);
                let escaped = format!("\\u{:04x}{rest}", first.as_bytes()[0]);
                for text in [format!("\"{name}\":"), format!("\"{escaped}\":")] {
                    let found = read(&mut names, &text, usize::MAX);
                    assert_eq!(found, (Some(index), text.len()));
                }
            }
        }
    }
}
