//! The client's side of SCRAM (RFC 5802 and 7677), without channel binding, as Kafka speaks it:
//! user and password are taken as they are, in UTF-8, without SASLprep.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Least of the rounds that Kafka keeps passwords with, and that the RFC allows. With fewer, who
/// poses as the broker could try passwords faster.
const LEAST_ROUNDS: u32 = 4096;
/// Most of them: who poses as the broker could keep us busy.
const MOST_ROUNDS: u32 = 1_000_000;
/// What begins a message of a client that binds to no channel.
const NO_BINDING: &str = "n,,";

/// Why a login ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScramError {
    /// Not a message of SCRAM.
    #[error("a message that is not SCRAM's: {0}")]
    Malformed(&'static str),
    /// The answer does not belong to our question.
    #[error("the broker's nonce does not go on from ours")]
    Nonce,
    /// Rounds that are not to be believed.
    #[error("the broker asks for {0} rounds, where {LEAST_ROUNDS} to {MOST_ROUNDS} are sound")]
    Rounds(u32),
    /// The broker says no.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// The broker does not know the password either.
    #[error("who answers does not know the password: it is not the broker")]
    Signature,
    /// No random bytes are to be had.
    #[error("the system gives no random bytes")]
    Random,
}

/// The hash that a mechanism is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self, key: &[u8]) -> hmac::Key {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::Key::new(algorithm, key)
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// The RFC's `Hi`, as the key of what follows.
    fn salted(self, password: &str, salt: &[u8], rounds: NonZeroU32) -> hmac::Key {
        let algorithm = match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = [0; digest::MAX_OUTPUT_LEN];
        let salted = &mut salted[..self.digest().output_len()];
        pbkdf2::derive(algorithm, rounds, salt, password.as_bytes(), salted);
        self.hmac(salted)
    }
}

/// One login. Not `Debug`: it has the password.
pub(super) struct Client<'a> {
    hash: Hash,
    password: &'a str,
    nonce: String,
    /// The first message without what tells the binding.
    bare: String,
}

/// What only a broker that knows the password can sign.
pub(super) struct Expected {
    key: hmac::Key,
    signed: String,
}

impl<'a> Client<'a> {
    pub(super) fn new(hash: Hash, user: &str, password: &'a str) -> Result<Self, ScramError> {
        let mut random = [0; 24];
        rand::fill(&mut random).map_err(|_| ScramError::Random)?;
        Ok(Self::with_nonce(hash, user, password, STANDARD.encode(random)))
    }

    fn with_nonce(hash: Hash, user: &str, password: &'a str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user},r={nonce}");
        Self { hash, password, nonce, bare }
    }

    /// The first message.
    pub(super) fn first(&self) -> Vec<u8> {
        format!("{NO_BINDING}{}", self.bare).into_bytes()
    }

    /// The second and last message, as an answer to the broker's first, and how to know the broker.
    pub(super) fn answer(&self, first: &[u8]) -> Result<(Vec<u8>, Expected), ScramError> {
        let first = text(first)?;
        let mut parts = first.split(',');
        let nonce = value(parts.next(), "r=")?;
        let ours = nonce.strip_prefix(self.nonce.as_str());
        if ours.is_none_or(str::is_empty) {
            return Err(ScramError::Nonce);
        }
        let salt = decoded(value(parts.next(), "s=")?)?;
        let rounds = value(parts.next(), "i=")?.parse::<u32>();
        let rounds = rounds.map_err(|_| ScramError::Malformed("a number of rounds is none"))?;
        let rounds = NonZeroU32::new(rounds)
            .filter(|rounds| (LEAST_ROUNDS..=MOST_ROUNDS).contains(&rounds.get()))
            .ok_or(ScramError::Rounds(rounds))?;

        let salted = self.hash.salted(self.password, &salt, rounds);
        let last = format!("c={},r={nonce}", STANDARD.encode(NO_BINDING));
        let signed = format!("{},{first},{last}", self.bare);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(self.hash.digest(), client_key.as_ref());
        let signature = hmac::sign(&self.hash.hmac(stored.as_ref()), signed.as_bytes());
        let both = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = both.map(|(key, signature)| key ^ signature).collect();
        let last = format!("{last},p={}", STANDARD.encode(proof));

        let server_key = hmac::sign(&salted, b"Server Key");
        let expected = Expected { key: self.hash.hmac(server_key.as_ref()), signed };
        Ok((last.into_bytes(), expected))
    }
}

impl Expected {
    /// Is the broker's last message one of who knows the password?
    pub(super) fn check(&self, last: &[u8]) -> Result<(), ScramError> {
        let signature = decoded(value(text(last)?.split(',').next(), "v=")?)?;
        hmac::verify(&self.key, self.signed.as_bytes(), &signature)
            .map_err(|_| ScramError::Signature)
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))
}

fn value<'a>(part: Option<&'a str>, name: &str) -> Result<&'a str, ScramError> {
    let part = part.unwrap_or_default();
    if let Some(refusal) = part.strip_prefix("e=") {
        let told = refusal.chars().take(100).flat_map(char::escape_debug);
        return Err(ScramError::Refused(told.collect()));
    }
    part.strip_prefix(name).ok_or(ScramError::Malformed("its parts are not those expected"))
}

fn decoded(base64: &str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(base64).map_err(|_| ScramError::Malformed("what should be base64 is not"))
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
