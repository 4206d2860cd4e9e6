//! How a connection is protected, and how it logs in.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use super::exchange_error::ExchangeError;
use super::sasl;
use super::scram::{Client, Hash};
use super::tls::{Stream, Tls};
use crate::base::secret::Properties;

/// Most characters that are repeated of what a broker says.
const MOST_TOLD: usize = 300;

/// What every connection to a cluster needs. The default is neither encrypted nor logged in. Not
/// `Debug`: it has the password.
#[derive(Default)]
pub(in crate::source) struct Security {
    tls: Option<Tls>,
    pub(super) login: Option<Login>,
}

impl Security {
    /// From librdkafka's properties. The error says what is wrong with which of them.
    pub(in crate::source) fn new(properties: &Properties) -> Result<Self, String> {
        let protocol = properties.get("security.protocol").unwrap_or("plaintext");
        let (tls, login) = match protocol {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            other => return Err(format!("`{other}` is no protocol")),
        };
        Ok(Self {
            tls: tls.then(|| Tls::new(properties)).transpose()?,
            login: login.then(|| Login::new(properties)).transpose()?,
        })
    }

    /// Protects a connection to `host`.
    pub(super) fn protect(&self, host: &str, stream: TcpStream) -> io::Result<Stream> {
        match &self.tls {
            Some(tls) => tls.connect(host, stream),
            None => Ok(Stream::Plain(stream)),
        }
    }
}

#[derive(Clone, Copy)]
enum Mechanism {
    Plain,
    Scram(Hash),
}

impl Mechanism {
    const EACH: [Self; 3] = [Self::Plain, Self::Scram(Hash::Sha256), Self::Scram(Hash::Sha512)];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram(Hash::Sha256) => "SCRAM-SHA-256",
            Self::Scram(Hash::Sha512) => "SCRAM-SHA-512",
        }
    }
}

/// A user, and how it proves to be that.
pub(super) struct Login {
    mechanism: Mechanism,
    user: String,
    password: String,
}

impl Login {
    fn new(properties: &Properties) -> Result<Self, String> {
        let get = |name: &str| properties.get(name).ok_or_else(|| format!("no {name}"));
        let mechanism = get("sasl.mechanism")?;
        let known = Mechanism::EACH.into_iter().find(|known| known.name() == mechanism);
        Ok(Self {
            mechanism: known.ok_or_else(|| format!("`{mechanism}` is no mechanism known here"))?,
            user: get("sasl.username")?.to_owned(),
            password: get("sasl.password")?.to_owned(),
        })
    }

    /// Logs in by `ask`, which sends a request and gives its answer; `version` is that of
    /// `SaslAuthenticate`. Returns how long the session lasts, if it ends.
    pub(super) fn run(
        &self,
        version: i16,
        mut ask: impl FnMut(&[u8]) -> Result<Vec<u8>, ExchangeError>,
    ) -> Result<Option<Duration>, ExchangeError> {
        let name = self.mechanism.name();
        let (error, known) = sasl::handshake_answer(&ask(&sasl::handshake_request(name))?)?;
        if error != 0 {
            let known = known.join(", ");
            let said = format!("error {error} for the mechanism {name}; it knows: {known}");
            return Err(self.refused(&said));
        }
        let mut step = |message: &[u8]| {
            let answer = ask(&sasl::step_request(version, message))?;
            let step = sasl::step_answer(&answer, version)?;
            match step.error {
                0 => Ok(step),
                error => Err(self.refused(&format!("error {error}: {}", step.detail))),
            }
        };
        let last = match self.mechanism {
            Mechanism::Plain => step(format!("\0{}\0{}", self.user, self.password).as_bytes())?,
            Mechanism::Scram(hash) => {
                let client = Client::new(hash, &self.user, &self.password)?;
                let first = step(&client.first())?;
                let (answer, expected) = client.answer(&first.message)?;
                let last = step(&answer)?;
                expected.check(&last.message)?;
                last
            }
        };
        Ok(last.lifetime)
    }

    /// What a broker says may be anything, even what we told it.
    fn refused(&self, said: &str) -> ExchangeError {
        let said: String = said.chars().take(MOST_TOLD).collect();
        let said = match self.password.is_empty() {
            true => said,
            false => said.replace(&self.password, "***"),
        };
        ExchangeError::Login(said.escape_debug().to_string())
    }
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
