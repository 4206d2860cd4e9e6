//! Reads JSON text (RFC 8259, strict) in one pass, with a bounded depth and no recursion of its
//! own. Positions are handed from call to call by value: kept in memory, the next read would wait
//! for the last write.

use std::borrow::Cow;

use crate::decode::columns::MAX_DEPTH;
use crate::decode::error::{Reason, RecordError, Step};
use crate::decode::number::Number;
use crate::decode::simd::{BLOCK, plain_prefix};

/// Zeros after each payload, so that blocks can be read up to its last byte.
const PADDING: usize = BLOCK;

#[cold]
fn too_wide() -> Box<RecordError> {
    RecordError::boxed(Reason::TooLarge, "its lists and maps grow beyond the bound")
}

/// The text between the quotes of a JSON string, checked, its escapes not yet replaced.
#[derive(Clone, Copy)]
pub(super) struct RawText<'a> {
    pub bytes: &'a [u8],
    pub escaped: bool,
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
    pub(super) fn append_to(self, out: &mut Vec<u8>) {
        if self.escaped { unescape(self.bytes, out) } else { out.extend_from_slice(self.bytes) }
    }
}

/// A copy of a payload with zeros after it. No JSON text has a zero byte, outside of strings or
/// inside, so that nothing reads past the end.
#[derive(Debug, Default)]
pub(super) struct Padded {
    bytes: Vec<u8>,
}

impl Padded {
    pub(super) fn fill(&mut self, payload: &[u8]) {
        self.bytes.clear();
        self.bytes.reserve(payload.len() + PADDING);
        self.bytes.extend_from_slice(payload);
        self.bytes.extend_from_slice(&[0; PADDING]);
    }

    /// Gives memory back after an uncommonly long payload.
    #[inline]
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if self.bytes.capacity() > bytes {
            self.bytes = Vec::new();
        }
    }
}

/// One payload, which is known to be UTF-8, and what is counted while it is read.
pub(super) struct Scanner<'a> {
    padded: &'a [u8],
    depth: u32,
    /// Fields skipped because the table lacks them.
    pub unknown_fields: u64,
    /// Bytes appended to columns beyond the fixed width of a row.
    pub variable_bytes: usize,
    /// What `variable_bytes` may become.
    most: usize,
}

impl<'a> Scanner<'a> {
    #[inline]
    pub(super) fn new(text: &'a Padded, most: usize) -> Self {
        Self { padded: &text.bytes, depth: 0, unknown_fields: 0, variable_bytes: 0, most }
    }

    /// Counts bytes that an element of a list or map is about to take: a short `null` may be a wide one.
    #[inline(always)]
    pub(super) fn grow(&mut self, bytes: usize) -> Step<()> {
        self.variable_bytes += bytes;
        match self.variable_bytes > self.most {
            true => Err(too_wide()),
            false => Ok(()),
        }
    }

    /// The byte at `at`; 0 at the end.
    #[inline(always)]
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.padded.get(at).copied().unwrap_or(0)
    }

    /// The bytes from `at` on, zeros from the end on.
    #[inline(always)]
    pub(super) fn window<const N: usize>(&self, at: usize) -> &'a [u8; N] {
        const { assert!(N <= PADDING) };
        let window = self.padded.get(at..at.wrapping_add(N));
        match window.and_then(|window| window.try_into().ok()) {
            Some(window) => window,
            None => zeros(),
        }
    }

    fn end(&self) -> usize {
        self.padded.len().saturating_sub(PADDING)
    }

    /// What is still to be read.
    #[inline]
    pub(super) fn rest(&self, at: usize) -> &'a [u8] {
        self.padded.get(at..self.end()).unwrap_or(&[])
    }

    /// What was read from `start` to `at`.
    #[inline]
    pub(super) fn since(&self, start: usize, at: usize) -> &'a [u8] {
        self.padded.get(start..at).unwrap_or(&[])
    }

    /// Steps over whitespace.
    #[inline(always)]
    pub(super) fn space(&self, at: usize) -> usize {
        self.token(at).0
    }

    /// Steps over whitespace; tells the byte after it as well.
    #[inline(always)]
    pub(super) fn token(&self, at: usize) -> (usize, u8) {
        let byte = self.byte(at);
        if byte > b' ' {
            return (at, byte);
        }
        let at = self.some_space(at);
        (at, self.byte(at))
    }

    #[inline(never)]
    fn some_space(&self, mut at: usize) -> usize {
        while matches!(self.byte(at), b' ' | b'\n' | b'\r' | b'\t') {
            at += 1;
        }
        at
    }

    /// A syntax fault at this position.
    #[cold]
    pub(super) fn syntax(&self, at: usize, expected: &str) -> Box<RecordError> {
        let rest = self.rest(at);
        if rest.is_empty() {
            let detail = format!("expected {expected}, but the payload ends");
            return RecordError::boxed(Reason::NotJson, detail);
        }
        let what = format!("{expected} at byte {at}");
        RecordError::expected(Reason::NotJson, what, rest)
    }

    /// Steps over the `{` or `[` here.
    #[inline]
    pub(super) fn enter(&mut self, at: usize) -> Step<usize> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let detail = format!("nested deeper than {MAX_DEPTH} at byte {}", at + 1);
            return Err(RecordError::boxed(Reason::TooDeep, detail));
        }
        Ok(at + 1)
    }

    /// Steps over the `}` or `]` here.
    #[inline]
    pub(super) fn leave(&mut self, at: usize) -> usize {
        self.depth -= 1;
        at + 1
    }

    /// Steps over `word`, which must be here.
    #[inline(always)]
    pub(super) fn literal<const N: usize>(&self, at: usize, word: &[u8; N]) -> Step<usize> {
        if self.window(at) == word { Ok(at + N) } else { Err(self.syntax(at, "a JSON value")) }
    }

    /// Reads a number, which must be here.
    #[inline]
    pub(super) fn number(&self, at: usize) -> Step<(Number<'a>, usize)> {
        match Number::scan(self.rest(at)) {
            Some((number, length)) => Ok((number, at + length)),
            None => Err(self.syntax(at, "a JSON number")),
        }
    }

    /// Reads a string, whose opening quote must be here.
    #[inline]
    pub(super) fn string(&self, at: usize) -> Step<(RawText<'a>, usize)> {
        let start = at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            let plain = plain_prefix(self.window(at));
            at += plain;
            if plain == BLOCK {
                continue;
            }
            match self.byte(at) {
                b'"' => return Ok((RawText { bytes: self.since(start, at), escaped }, at + 1)),
                b'\\' => {
                    escaped = true;
                    at = self.escape(at)?;
                }
                _ => return Err(self.syntax(at, "the rest of a string")),
            }
        }
    }

    /// Reads a string, whose opening quote must be here, and appends its text, which is never
    /// longer than it is in the payload.
    #[inline(always)]
    pub(super) fn string_into(&self, at: usize, out: &mut Vec<u8>) -> Step<usize> {
        let mut at = at + 1;
        loop {
            // A copy of fixed length and a cut cost less than a copy of any length.
            let block = self.window::<BLOCK>(at);
            let plain = plain_prefix(block);
            let end = out.len() + plain;
            out.extend_from_slice(block);
            out.truncate(end);
            at += plain;
            match block.get(plain) {
                None => {}
                Some(b'"') => return Ok(at + 1),
                Some(_) => at = self.escape_into(at, out)?,
            }
        }
    }

    /// Appends what the escape sequence here stands for.
    #[inline(never)]
    fn escape_into(&self, at: usize, out: &mut Vec<u8>) -> Step<usize> {
        if self.byte(at) != b'\\' {
            return Err(self.syntax(at, "the rest of a string"));
        }
        let end = self.escape(at)?;
        unescape(self.since(at, end), out);
        Ok(end)
    }

    /// Checks and steps over the escape sequence here.
    fn escape(&self, at: usize) -> Step<usize> {
        match self.byte(at + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
            b'u' => match escaped_char(self.rest(at)) {
                Some((_, length)) => Ok(at + length),
                None => Err(self.syntax(at, "a \\u escape of a whole character")),
            },
            _ => Err(self.syntax(at, "an escape sequence")),
        }
    }

    /// Reads a key and the colon after it. Its opening quote must be the next byte.
    pub(super) fn key(&self, at: usize) -> Step<(RawText<'a>, usize)> {
        if self.byte(at) != b'"' {
            return Err(self.syntax(at, "a quoted key"));
        }
        let (key, at) = self.string(at)?;
        let at = self.space(at);
        if self.byte(at) != b':' {
            return Err(self.syntax(at, "a colon"));
        }
        Ok((key, at + 1))
    }

    /// Checks and steps over one value of any kind, after whitespace.
    pub(super) fn skip_value(&mut self, at: usize) -> Step<usize> {
        let mut at = at;
        let floor = self.depth;
        // One bit for each open container, the innermost lowest: 1 for an object. MAX_DEPTH bits.
        let mut objects: u128 = 0;
        loop {
            at = self.space(at);
            match self.byte(at) {
                open @ (b'{' | b'[') => {
                    at = self.enter(at)?;
                    objects = (objects << 1) | u128::from(open == b'{');
                    // `{"` waits for a key, `[` for a value; an empty container is closed below.
                    at = self.space(at);
                    let first = self.byte(at);
                    if open == b'{' && first != b'}' {
                        at = self.key(at)?.1;
                        continue;
                    }
                    if open == b'[' && first != b']' {
                        continue;
                    }
                }
                b'"' => at = self.string(at)?.1,
                b'-' | b'0'..=b'9' => at = self.number(at)?.1,
                b't' => at = self.literal(at, b"true")?,
                b'f' => at = self.literal(at, b"false")?,
                b'n' => at = self.literal(at, b"null")?,
                _ => return Err(self.syntax(at, "a JSON value")),
            }
            // A value ended: close containers until one goes on.
            loop {
                if self.depth == floor {
                    return Ok(at);
                }
                let in_object = objects & 1 == 1;
                at = self.space(at);
                match (self.byte(at), in_object) {
                    (b',', _) => {
                        at += 1;
                        if in_object {
                            at = self.key(self.space(at))?.1;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        at = self.leave(at);
                        objects >>= 1;
                    }
                    (_, true) => return Err(self.syntax(at, "`,` or `}`")),
                    (_, false) => return Err(self.syntax(at, "`,` or `]`")),
                }
            }
        }
    }
}

/// What is beyond the end: a call, so that the compiler does not choose between two addresses
/// without a branch and wait for both.
#[cold]
#[inline(never)]
fn zeros<const N: usize>() -> &'static [u8; N] {
    &[0; N]
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
