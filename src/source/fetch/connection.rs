//! A connection to a broker, over which one request at a time is asked and answered.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::exchange_error::{ExchangeError, SILENCE};
use super::sasl;
use super::security::{Login, Security};
use super::tls::Stream;
use super::wire::{self, Answer, Limits, Wanted};
use crate::source::Topics;

/// How long a broker may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How much of a session's time is used. The broker ends a connection that asks later than that.
const USE: f64 = 0.8;
/// Most bytes of an answer that is believed, of the versions and of records. The first may come from
/// anybody: a port that speaks TLS answers with what reads as a size of 352 MB. Kafka's are as large as asked for, and a batch more.
const MOST: (usize, usize) = (1 << 20, 1 << 30);
/// By how much a buffer grows at once. Most answers take one step.
const STEP: usize = 8 << 20;

/// Address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An open connection.
pub(super) struct Connection {
    stream: Stream,
    correlation: i32,
    version: i16,
    /// To be followed by another one from this time on.
    until: Option<Instant>,
}

impl Connection {
    /// Connects, agrees on a version and logs in.
    pub(super) fn open(address: &Address, security: &Security) -> Result<Self, ExchangeError> {
        let stream = connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.set_read_timeout(Some(SILENCE))?;
        let stream = security.protect(&address.host, stream)?;
        let mut connection = Self { stream, correlation: 0, version: 0, until: None };
        let request = wire::versions_request(connection.correlation);
        let mut answer = Vec::new();
        let length = connection.exchange(&request, &mut answer, MOST.0)?;
        let version = wire::fetch_version(&answer[..length], connection.correlation)?;
        connection.version = version.ok_or(ExchangeError::Version)?;
        if let Some(login) = &security.login {
            connection.log_in(login, &answer[..length])?;
        }
        Ok(connection)
    }

    /// `versions` is the broker's answer about those that it speaks.
    fn log_in(&mut self, login: &Login, versions: &[u8]) -> Result<(), ExchangeError> {
        let (oldest, newest) = sasl::AUTHENTICATE_VERSIONS;
        let version =
            wire::version(versions, self.correlation, sasl::AUTHENTICATE, oldest..=newest)?;
        let version = version.ok_or_else(|| {
            ExchangeError::Login(String::from("it does not know the request for that"))
        })?;
        let start = Instant::now();
        let lifetime = login.run(version, |request| {
            let mut answer = Vec::new();
            let length = self.exchange(request, &mut answer, MOST.0)?;
            answer.truncate(length);
            Ok(answer)
        })?;
        self.until = lifetime.and_then(|lifetime| start.checked_add(lifetime.mul_f64(USE)));
        Ok(())
    }

    /// Is its session so near to its end that another connection should take its place?
    pub(super) fn ends_soon(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Asks for records. The answer's bytes are left in `buffer`.
    pub(super) fn fetch(
        &mut self,
        topics: &Topics,
        wanted: &[Wanted],
        limits: Limits,
        buffer: &mut Vec<u8>,
    ) -> Result<Answer, ExchangeError> {
        self.correlation = self.correlation.wrapping_add(1);
        let request = wire::fetch_request(self.version, self.correlation, topics, wanted, limits);
        let length = self.exchange(&request, buffer, MOST.1)?;
        let answer = &buffer[..length];
        Ok(wire::fetch_answer(answer, self.version, self.correlation, topics, wanted)?)
    }

    /// Sends a frame and receives one. Returns its length; what is behind that in `buffer` is not
    /// of it: a buffer that is used again is not cleared.
    fn exchange(
        &mut self,
        request: &[u8],
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Result<usize, ExchangeError> {
        self.stream.write_all(request)?;
        self.stream.flush()?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let told = u32::from_be_bytes(length);
        let length = usize::try_from(told).ok().filter(|length| *length <= most);
        let length = length.ok_or(ExchangeError::Size(told))?;
        read_into(&mut self.stream, buffer, length)?;
        Ok(length)
    }
}

/// Reads so many bytes to the beginning of `buffer`, which grows as they come: memory is not given to
/// a size that a broker only told.
fn read_into(stream: &mut impl Read, buffer: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let mut filled = 0;
    while filled < length {
        let until = length.min(buffer.len().max(filled + STEP));
        if buffer.len() < until {
            buffer.resize(until, 0);
        }
        stream.read_exact(&mut buffer[filled..until])?;
        filled = until;
    }
    Ok(())
}

/// Tries each address that the name has.
fn connect(address: &Address) -> io::Result<TcpStream> {
    let mut last = None;
    for each in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&each, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_with_the_bytes_that_come() {
        let mut buffer = Vec::new();
        let told = read_into(&mut &[7_u8; 10][..], &mut buffer, MOST.1);
        assert_eq!(told.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(buffer.len(), STEP);
    }

    #[test]
    fn an_answer_of_many_steps_is_read_whole_and_one_into_a_used_buffer_leaves_its_length() {
        let bytes: Vec<u8> = (0..=250).cycle().take(2 * STEP + 5).collect();
        let mut buffer = Vec::new();
        read_into(&mut &bytes[..], &mut buffer, bytes.len()).unwrap();
        assert!(buffer == bytes);
        read_into(&mut &[9_u8; 3][..], &mut buffer, 3).unwrap();
        assert_eq!((buffer.len(), &buffer[..4]), (bytes.len(), &[9, 9, 9, 3][..]));
    }
}
