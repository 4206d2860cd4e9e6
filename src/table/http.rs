//! HTTP clients of this part: whom they trust.

use reqwest::{Certificate, ClientBuilder};

/// Trusts the authorities of a PEM file, too, beside those that the system trusts.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn with_authorities(
    builder: ClientBuilder,
    ca_file: &str,
) -> Result<ClientBuilder, String> {
    let pem = std::fs::read(ca_file).map_err(|error| format!("cannot read {ca_file}: {error}"))?;
    let all = Certificate::from_pem_bundle(&pem)
        .map_err(|error| format!("{ca_file} is no PEM file of certificates: {error}"))?;
    match all.is_empty() {
        true => Err(format!("{ca_file} holds no certificate in PEM")),
        false => Ok(builder.tls_certs_merge(all)),
    }
}
