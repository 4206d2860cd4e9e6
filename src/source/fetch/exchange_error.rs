//! Why a broker could not be asked, or did not answer.

use std::io;
use std::time::Duration;

use super::scram::ScramError;
use super::tls;
use super::wire::{self, Malformed};

/// How long a broker may be silent in the middle of an exchange, beside the time that it is told to
/// wait.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Why an exchange failed. A connection is not used after that.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The network, or the broker's end of it.
    #[error("{}", words(.0))]
    Io(io::Error),
    /// No trust in the broker, or its refusal.
    #[error("TLS: {0}; {advice}", advice = tls::advice(.0))]
    Tls(rustls::Error),
    /// The broker does not let the user in.
    #[error("the broker refused the login: {0}; check the KAFKA_SASL_* settings")]
    Login(String),
    /// The broker did not keep to the mechanism.
    #[error("cannot log in: {0}; check the KAFKA_SASL_* settings, and who listens there")]
    Scram(#[from] ScramError),
    /// Who answers there does not speak Kafka's protocol as we know it.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An answer of a size that cannot be.
    #[error("an answer of {0} bytes; is it a Kafka broker that listens there?")]
    Size(u32),
    /// The broker is too old or too new.
    #[error(
        "the broker does not speak versions {} or {} of Fetch (Kafka 2.3 and later); \
         KAFKA_FETCHER=librdkafka speaks others",
        wire::OLDEST_FETCH,
        wire::NEWEST_FETCH
    )]
    Version,
}

impl ExchangeError {
    /// Will waiting not help, as far as one can tell?
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Tls(_) | Self::Login(_) | Self::Scram(_) | Self::Version => true,
            Self::Io(_) | Self::Malformed(_) | Self::Size(_) => false,
        }
    }
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

/// What an error of the network means here.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => String::from("the broker closed the connection"),
        // What a read tells that waited too long; a connection that is not accepted is another kind.
        io::ErrorKind::WouldBlock => format!("no answer within {} s", SILENCE.as_secs()),
        _ => error.to_string(),
    }
}
