//! `icestream health`

use std::io::Write;
use std::time::Duration;

use super::unwritable;
use crate::failure::{Failure, exit};

/// A container's health check gives up at about this time, too.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running icestream for its readiness. Returns 0 if it answers 200, else 1; the answer
/// or what went wrong is written.
///
/// # Errors
/// The HTTP client cannot be made.
pub async fn health(url: &str, out: &mut dyn Write) -> Result<u8, Failure> {
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()
        .map_err(|error| Failure::Internal(format!("cannot make an HTTP client: {error}")))?;
    let answer = async {
        let answer = client.get(url).send().await?;
        let status = answer.status();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    };
    let (code, text) = match answer.await {
        Ok((reqwest::StatusCode::OK, body)) => (exit::DONE, body),
        Ok((status, body)) => (exit::FAILED, format!("{url} answered {status}\n{body}")),
        Err(error) => (exit::FAILED, format!("{url} did not answer: {}", error_text(&error))),
    };
    writeln!(out, "{}", text.trim_end()).map_err(unwritable)?;
    Ok(code)
}

/// The error without the URL, which is named already.
fn error_text(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        causes.push(inner.to_string());
        cause = inner.source();
    }
    causes.pop().unwrap_or_else(|| error.to_string())
}
