//! `icestream health`

use std::io::Write;
use std::time::Duration;

use super::written;
use crate::failure::{Failure, exit};

/// A container's health check gives up at about this time, too.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running icestream for its readiness. Returns 0 if it answers 200, else 1; the answer
/// or what went wrong is written.
///
/// # Errors
/// The HTTP client cannot be made.
pub(crate) async fn health(url: &str, out: &mut dyn Write) -> Result<u8, Failure> {
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
    written(writeln!(out, "{}", text.trim_end()))?;
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(answer: &'static str) -> (u8, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/readyz", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("a request");
            let mut request = [0; 1024];
            let length = client.read(&mut request).await.expect("read");
            client.write_all(answer.as_bytes()).await.expect("written");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let mut out = Vec::new();
        let code = health(&url, &mut out).await.expect("an answer");
        assert!(server.await.expect("served").starts_with("GET /readyz HTTP/1.1"));
        (code, String::from_utf8(out).expect("UTF-8"))
    }

    #[tokio::test]
    async fn ready_is_exit_code_0_and_anything_else_1_with_the_reasons() {
        let ready = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready";
        assert_eq!(ask(ready).await, (0, String::from("ready\n")));
        let not = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\ncatalog";
        let (code, text) = ask(not).await;
        assert_eq!(code, 1);
        assert!(text.contains("503") && text.ends_with("catalog\n"), "{text}");
    }

    #[tokio::test]
    async fn nobody_there_is_exit_code_1_and_says_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let mut out = Vec::new();
        let code = health(&format!("http://{address}/readyz"), &mut out).await.expect("an answer");
        let text = String::from_utf8(out).expect("UTF-8");
        assert_eq!(code, 1);
        assert!(text.contains("did not answer") && text.contains("refused"), "{text}");
    }
}
