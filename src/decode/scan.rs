//! Reads JSON text (RFC 8259, strict) in one pass, with a bounded depth and no recursion of its
//! own.

use std::borrow::Cow;

use super::error::{Reason, RecordError};
use super::number::Number;

/// Objects and arrays within each other at most; the record itself is the first.
pub(super) const MAX_DEPTH: u32 = 128;

/// Bytes of a text that is copied together with what follows it in the payload.
const SHORT: usize = 32;

/// A fault, or what was read. Boxed: a fault is rare and a pointer is cheap to hand on.
pub(super) type Step<T> = Result<T, Box<RecordError>>;

/// The text between the quotes of a JSON string, checked, its escapes not yet replaced.
#[derive(Clone, Copy)]
pub(super) struct RawText<'a> {
    pub bytes: &'a [u8],
    pub escaped: bool,
    /// The payload from the beginning of the text on.
    window: &'a [u8],
}

impl<'a> RawText<'a> {
    /// The text itself.
    pub(super) fn text(self) -> Cow<'a, [u8]> {
        if !self.escaped {
            return Cow::Borrowed(self.bytes);
        }
        let mut text = Vec::with_capacity(self.bytes.len());
        self.append_to(&mut text);
        Cow::Owned(text)
    }

    /// Appends the text, never more bytes than it has in the payload.
    #[inline]
    pub(super) fn append_to(self, out: &mut Vec<u8>) {
        if self.escaped {
            unescape(self.bytes, out);
        } else if self.bytes.len() <= SHORT
            && let Some(window) = self.window.first_chunk::<SHORT>()
        {
            // A copy of fixed length and a cut cost less than a copy of any length.
            let end = out.len() + self.bytes.len();
            out.extend_from_slice(window);
            out.truncate(end);
        } else {
            out.extend_from_slice(self.bytes);
        }
    }
}

/// A position in one payload, which is known to be UTF-8.
pub(super) struct Scanner<'a> {
    payload: &'a [u8],
    pos: usize,
    depth: u32,
    /// Fields skipped because the table lacks them.
    pub unknown_fields: u64,
    /// Bytes appended to columns beyond the fixed width of a row.
    pub variable_bytes: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { payload, pos: 0, depth: 0, unknown_fields: 0, variable_bytes: 0 }
    }

    /// The byte here; 0, which no JSON text has outside or inside of strings, at the end.
    #[inline]
    pub(super) fn byte(&self) -> u8 {
        self.payload.get(self.pos).copied().unwrap_or(0)
    }

    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.pos += bytes;
    }

    #[inline]
    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    /// What is still to be read.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.payload.get(self.pos..).unwrap_or(&[])
    }

    /// What was read since `start`.
    #[inline]
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.payload.get(start..self.pos).unwrap_or(&[])
    }

    /// Skips whitespace and tells the byte after it.
    #[inline]
    pub(super) fn next_token(&mut self) -> u8 {
        loop {
            match self.byte() {
                b' ' | b'\n' | b'\r' | b'\t' => self.pos += 1,
                other => return other,
            }
        }
    }

    /// A syntax fault at this position.
    #[cold]
    pub(super) fn syntax(&self, expected: &str) -> Box<RecordError> {
        let rest = self.rest();
        if rest.is_empty() {
            let detail = format!("expected {expected}, but the payload ends");
            return RecordError::boxed(Reason::NotJson, detail);
        }
        let what = format!("{expected} at byte {}", self.pos);
        RecordError::expected(Reason::NotJson, what, rest)
    }

    /// Steps over the `{` or `[` here.
    #[inline]
    pub(super) fn enter(&mut self) -> Step<()> {
        self.pos += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let detail = format!("nested deeper than {MAX_DEPTH} at byte {}", self.pos);
            return Err(RecordError::boxed(Reason::TooDeep, detail));
        }
        Ok(())
    }

    /// Steps over the `}` or `]` here.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.pos += 1;
        self.depth -= 1;
    }

    /// Steps over `word`, which must be here.
    #[inline]
    pub(super) fn literal(&mut self, word: &'static str) -> Step<()> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.syntax("a JSON value"));
        }
        self.pos += word.len();
        Ok(())
    }

    /// Reads a number, which must be here. Always inlined, as is `string`: handing the result over
    /// in memory costs as much as finding it.
    #[inline(always)]
    pub(super) fn number(&mut self) -> Step<Number<'a>> {
        match Number::scan(self.rest()) {
            Some((number, length)) => {
                self.pos += length;
                Ok(number)
            }
            None => Err(self.syntax("a JSON number")),
        }
    }

    /// Reads a string, whose opening quote must be here.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Step<RawText<'a>> {
        let start = self.pos + 1;
        let mut escaped = false;
        self.pos = start;
        let window = self.rest();
        loop {
            self.pos += plain_bytes(self.rest());
            match self.byte() {
                b'"' => {
                    let bytes = self.since(start);
                    self.pos += 1;
                    return Ok(RawText { bytes, escaped, window });
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.syntax("the rest of a string")),
            }
        }
    }

    /// Checks and steps over the escape sequence here.
    fn escape(&mut self) -> Step<()> {
        match self.payload.get(self.pos + 1).copied().unwrap_or(0) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.pos += 2;
                Ok(())
            }
            b'u' => match escaped_char(self.rest()) {
                Some((_, length)) => {
                    self.pos += length;
                    Ok(())
                }
                None => Err(self.syntax("a \\u escape of a whole character")),
            },
            _ => Err(self.syntax("an escape sequence")),
        }
    }

    /// Reads a key and the colon after it. Its opening quote must be the next byte.
    pub(super) fn key(&mut self) -> Step<RawText<'a>> {
        if self.byte() != b'"' {
            return Err(self.syntax("a quoted key"));
        }
        let key = self.string()?;
        if self.next_token() != b':' {
            return Err(self.syntax("a colon"));
        }
        self.pos += 1;
        Ok(key)
    }

    /// Checks and steps over one value of any kind, after whitespace.
    pub(super) fn skip_value(&mut self) -> Step<()> {
        let floor = self.depth;
        // One bit for each open container, the innermost lowest: 1 for an object. MAX_DEPTH bits.
        let mut objects: u128 = 0;
        loop {
            match self.next_token() {
                open @ (b'{' | b'[') => {
                    self.enter()?;
                    objects = (objects << 1) | u128::from(open == b'{');
                    // `{"` waits for a key, `[` for a value; an empty container is closed below.
                    let first = self.next_token();
                    if open == b'{' && first != b'}' {
                        self.key()?;
                        continue;
                    }
                    if open == b'[' && first != b']' {
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => return Err(self.syntax("a JSON value")),
            }
            // A value ended: close containers until one goes on.
            loop {
                if self.depth == floor {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                match (self.next_token(), in_object) {
                    (b',', _) => {
                        self.pos += 1;
                        if in_object {
                            self.next_token();
                            self.key()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.leave();
                        objects >>= 1;
                    }
                    (_, true) => return Err(self.syntax("`,` or `}`")),
                    (_, false) => return Err(self.syntax("`,` or `]`")),
                }
            }
        }
    }
}

/// Bytes that are searched at once.
const BLOCK: usize = 16;

/// Bytes before the first quote, backslash or control character, or before the end.
#[inline]
fn plain_bytes(text: &[u8]) -> usize {
    let (blocks, tail) = text.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        if let Some(at) = first_special(block) {
            return index * BLOCK + at;
        }
    }
    let plain = tail.iter().take_while(|b| **b >= 0x20 && **b != b'"' && **b != b'\\').count();
    text.len() - tail.len() + plain
}

/// Where the first quote, backslash or control character is. Written without branches, so that the
/// compiler makes vector instructions of it.
#[inline]
fn first_special(block: &[u8; BLOCK]) -> Option<usize> {
    let mut flags = [0u8; BLOCK];
    for (flag, b) in flags.iter_mut().zip(*block) {
        let special = (b < 0x20) | (b == b'"') | (b == b'\\');
        *flag = if special { 0xFF } else { 0 };
    }
    let flags = u128::from_le_bytes(flags);
    (flags != 0).then(|| flags.trailing_zeros() as usize / 8)
}

/// The character of the `\u` escape, or of the surrogate pair of two, that begins `text`, and the
/// bytes it takes.
fn escaped_char(text: &[u8]) -> Option<(char, usize)> {
    let first = hex4(text.get(2..6)?)?;
    match first {
        0xD800..=0xDBFF => {
            if text.get(6..8)? != b"\\u" {
                return None;
            }
            let second = hex4(text.get(8..12)?)?;
            if !(0xDC00..=0xDFFF).contains(&second) {
                return None;
            }
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            char::from_u32(code).map(|c| (c, 12))
        }
        // A lone low surrogate is no character.
        _ => char::from_u32(first).map(|c| (c, 6)),
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))
}

/// Replaces the escapes of `raw`, which were checked before.
fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        let (c, length) = match escape.get(1).copied().unwrap_or(b'\\') {
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'u' => escaped_char(escape).unwrap_or((char::REPLACEMENT_CHARACTER, 2)),
            same => (char::from(same), 2),
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        rest = escape.get(length..).unwrap_or(&[]);
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_is_found_wherever_it_is_and_no_other() {
        for byte in 0..=255u8 {
            for at in 0..BLOCK {
                for filler in [b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xFF] {
                    let mut block = [filler; BLOCK];
                    block[at] = byte;
                    let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                    assert_eq!(first_special(&block), special.then_some(at));
                }
            }
        }
    }
}
