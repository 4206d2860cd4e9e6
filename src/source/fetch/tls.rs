//! TLS by rustls, set up by the same properties as librdkafka's.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::base::secret::Properties;

/// Whom to trust, and what to show.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files that the properties name. The error says which file, and what is wrong.
    pub(super) fn new(properties: &Properties) -> Result<Self, String> {
        let path = |name| properties.get(name).map(Path::new);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities(path("ssl.ca.location"))?);
        let own = (path("ssl.certificate.location"), path("ssl.key.location"));
        let config = match own {
            (Some(certificate), Some(key)) => config
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| {
                    format!("{} with {}: {error}", certificate.display(), key.display())
                })?,
            _ => config.with_no_client_auth(),
        };
        Ok(Self { config: Arc::new(config) })
    }

    /// Shakes hands with `host`, which must prove that it has that name.
    pub(super) fn connect(&self, host: &str, stream: TcpStream) -> io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connection =
            ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// Authorities of a PEM file or of a directory whose files are named by hashes, or the system's.
fn authorities(location: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (what, found) = match location {
        // librdkafka's word for looking where systems have them.
        Some(path) if path.as_os_str() != "probe" => {
            let certificates = match path.is_dir() {
                true => rustls_native_certs::load_certs_from_paths(None, Some(path)).certs,
                false => certificates(path)?,
            };
            (path.display().to_string(), certificates)
        }
        _ => {
            let found = rustls_native_certs::load_native_certs();
            (String::from("the system's store of authorities"), found.certs)
        }
    };
    roots.add_parsable_certificates(found);
    match roots.is_empty() {
        true => Err(format!("{what}: no certificate of an authority is in it")),
        false => Ok(roots),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| format!("{}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(failed)?;
    match found.is_empty() {
        true => Err(format!("{}: no certificate is in it", path.display())),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // What an error of the parser quotes could be of the key.
    PrivateKeyDer::from_pem_file(path)
        .map_err(|_| format!("{}: no key in PEM that is not encrypted is in it", path.display()))
}

/// What to do about an error of TLS.
pub(super) fn advice(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            "check KAFKA_SSL_CA_LOCATION and the names in the broker's certificate; \
             KAFKA_FETCHER=librdkafka takes a name in its subject too"
        }
        rustls::Error::AlertReceived(_) => {
            "the broker refused: check KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION"
        }
        _ => "check KAFKA_SECURITY_PROTOCOL",
    }
}

/// A connection's bytes.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
