//! The two requests by which a connection logs in, and their answers. Layouts are those of Kafka's
//! message definitions (`SaslHandshake*.json`, `SaslAuthenticate*.json`).

use std::time::Duration;

use super::wire::{Decoder, Encoder, Malformed};

const HANDSHAKE: i16 = 17;
/// In this version and not before, what follows is `SaslAuthenticate`.
const HANDSHAKE_VERSION: i16 = 1;
/// Kafka's number of the request that carries a mechanism's messages.
pub(super) const AUTHENTICATE: i16 = 36;
/// The versions of it that are spoken here. From 1 on a session may have an end (KIP-368), from 2
/// on lengths are compact.
pub(super) const AUTHENTICATE_VERSIONS: (i16, i16) = (0, 2);

/// A connection logs in before it asks for anything else, so that its requests need no numbers.
const CORRELATION: i32 = 0;

/// An answer to a step of the login.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Kafka's error code, 0 for none.
    pub(super) error: i16,
    /// What the broker says about that.
    pub(super) detail: String,
    /// The mechanism's message.
    pub(super) message: Vec<u8>,
    /// How long the session lasts, if it ends.
    pub(super) lifetime: Option<Duration>,
}

/// Asks to log in by a mechanism.
pub(super) fn handshake_request(mechanism: &str) -> Vec<u8> {
    let mut out = Encoder::request(HANDSHAKE, HANDSHAKE_VERSION, CORRELATION);
    out.string(mechanism);
    out.finish()
}

/// The error code, 0 for none, and the mechanisms that the broker knows.
pub(super) fn handshake_answer(answer: &[u8]) -> Result<(i16, Vec<String>), Malformed> {
    let mut at = Decoder::new(answer, false);
    at.correlation(CORRELATION)?;
    let error = at.i16()?;
    let mut mechanisms = Vec::new();
    for _ in 0..at.count()? {
        mechanisms.push(String::from_utf8_lossy(at.string()?).into_owned());
    }
    Ok((error, mechanisms))
}

/// A mechanism's message.
pub(super) fn step_request(version: i16, message: &[u8]) -> Vec<u8> {
    let mut out = Encoder::request(AUTHENTICATE, version, CORRELATION);
    out.flexible = version >= 2;
    out.tags();
    out.bytes(message);
    out.tags();
    out.finish()
}

/// Reads the answer to a step of `version`.
pub(super) fn step_answer(answer: &[u8], version: i16) -> Result<Step, Malformed> {
    let mut at = Decoder::new(answer, version >= 2);
    at.correlation(CORRELATION)?;
    at.tags()?;
    let error = at.i16()?;
    let detail = String::from_utf8_lossy(at.string()?).into_owned();
    let message = answer[at.bytes()?].to_vec();
    let lifetime = if version >= 1 { at.i64()? } else { 0 };
    at.tags()?;
    let lifetime = u64::try_from(lifetime).ok().filter(|millis| *millis > 0);
    Ok(Step { error, detail, message, lifetime: lifetime.map(Duration::from_millis) })
}

#[cfg(test)]
#[path = "sasl_tests.rs"]
mod tests;
