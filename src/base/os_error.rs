//! What waiting does about an error of the operating system or of a store: one judgement, wherever
//! the error is met. The crates below pass most of them on as words alone, without the code; all that
//! is judged by words is judged here, and a test provokes each through the crate whose words they are.

use std::error::Error;
use std::io;

/// What waiting does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The disk or the quota is used up. Waiting helps when somebody frees some.
    Full,
    /// It would be refused again: no permission, a read-only file system, a path that cannot be, a
    /// store that calls its answer permanent.
    Refused,
    /// It may pass.
    Passing,
}

const FULL: [i32; 2] = [libc::ENOSPC, libc::EDQUOT];
const REFUSED: [i32; 5] =
    [libc::EACCES, libc::EPERM, libc::EROFS, libc::ENAMETOOLONG, libc::ENOTDIR];

/// What waiting does about `error`, by its words and codes and those of its causes.
pub(crate) fn verdict(error: &(dyn Error + 'static)) -> Verdict {
    if causes(error).any(|cause| has_code(cause, &FULL)) {
        return Verdict::Full;
    }
    // What opendal calls so, where no layer that tries again stands before it.
    let permanent = |cause: &dyn Error| cause.to_string().contains("(permanent)");
    match causes(error).any(|cause| has_code(cause, &REFUSED) || permanent(cause)) {
        true => Verdict::Refused,
        false => Verdict::Passing,
    }
}

/// What to say of [`is_skewed`].
pub(crate) const SKEWED: &str = "the clock of this machine, or that of the store, is wrong by more than \
                                 the store takes (S3: 15 minutes): set it right";

/// Does a store refuse a request for the time that it says it was signed at? The clock may be set
/// right: it passes.
pub(crate) fn is_skewed(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.to_string().contains("RequestTimeTooSkewed"))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// iceberg's store of local files passes the code on in the text alone, which the standard library
/// renders as `(os error N)` on every platform.
fn has_code(error: &(dyn Error + 'static), codes: &[i32]) -> bool {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    let text = error.to_string();
    codes.iter().any(|code| own == Some(*code) || text.contains(&format!("(os error {code})")))
}

/// Does librdkafka say that a log was cut off? There is no code of its own for it where a reset of
/// the position is an error.
pub(crate) fn is_log_truncation(said: &str) -> bool {
    said.contains("log truncation")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::Arc;

    use iceberg::io::{FileIOBuilder, LocalFsStorageFactory};
    use iceberg_storage_opendal::OpenDalStorageFactory;

    use super::*;

    /// What iceberg's local store says of a file written whole, and of one written in parts.
    async fn local(path: &Path) -> [iceberg::Error; 2] {
        let io = FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build();
        let output = || io.new_output(format!("file://{}", path.display())).unwrap();
        let in_parts = async {
            let mut writer = output().writer().await?;
            writer.write("x".into()).await?;
            writer.close().await
        };
        [output().write("x".into()).await.unwrap_err(), in_parts.await.unwrap_err()]
    }

    #[tokio::test]
    async fn a_full_disk_is_told_by_the_local_store() {
        for error in local(Path::new("/dev/full")).await {
            assert_eq!(verdict(&error), Verdict::Full, "{error}");
        }
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_refused_by_the_local_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        for path in [String::from("file/directory/a"), "long".repeat(100)] {
            for error in local(&dir.path().join(path)).await {
                assert_eq!(verdict(&error), Verdict::Refused, "{error}");
            }
        }
        // A file in place of a directory's end may be somebody's mistake that passes.
        let [error, _] = local(dir.path()).await;
        assert_eq!(verdict(&error), Verdict::Passing, "{error}");
    }

    /// What the client of S3 says of a store that answers 403 with this body.
    async fn forbidden(body: &'static str) -> iceberg::Error {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut part) = (Vec::<u8>::new(), [0; 4096]);
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                let count = stream.read(&mut part).unwrap();
                asked.extend(&part[..count]);
            }
            let length = body.len();
            let head = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {length}\r\n");
            let answer = format!("{head}connection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let factory = OpenDalStorageFactory::S3 { customized_credential_load: None };
        let io = FileIOBuilder::new(Arc::new(factory))
            .with_prop("s3.endpoint", endpoint)
            .with_prop("s3.region", "us-east-1")
            .with_prop("s3.access-key-id", "id")
            .with_prop("s3.secret-access-key", "secret")
            .with_prop("s3.path-style-access", "true")
            .build();
        let error = io.new_output("s3://b/k").unwrap().write("x".into()).await.unwrap_err();
        server.join().unwrap();
        error
    }

    #[tokio::test]
    async fn an_object_store_that_forbids_may_allow_it_later() {
        let error = forbidden("").await;
        // The layer that tries again calls every error persistent, this one too, which it did not try
        // again. Keys that are exchanged under a running process are refused for a while.
        assert!(error.to_string().contains("PermissionDenied (persistent)"), "{error}");
        assert_eq!(verdict(&error), Verdict::Passing, "{error}");
        assert!(!is_skewed(&error), "{error}");
    }

    #[tokio::test]
    async fn a_clock_that_is_off_is_told_by_an_object_store_and_passes() {
        let error = forbidden(
            "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time \
             and the current time is too large.</Message></Error>",
        )
        .await;
        assert!(is_skewed(&error), "{error}");
        assert_eq!(verdict(&error), Verdict::Passing, "{error}");
    }

    #[test]
    fn codes_count_as_words_as_causes_and_as_they_are() {
        let wrapped = |code| {
            let source = io::Error::from_raw_os_error(code);
            let words = format!("Failed to write: {source}");
            let kind = iceberg::ErrorKind::Unexpected;
            let caused = iceberg::Error::new(kind, "Failure in doing io").with_source(source);
            [iceberg::Error::new(kind, words), caused].map(|error| verdict(&error))
        };
        for code in [libc::ENOSPC, libc::EDQUOT] {
            assert_eq!(wrapped(code), [Verdict::Full; 2]);
            assert_eq!(verdict(&io::Error::from_raw_os_error(code)), Verdict::Full);
        }
        for code in [libc::EACCES, libc::EPERM, libc::EROFS] {
            assert_eq!(wrapped(code), [Verdict::Refused; 2]);
        }
        for code in [libc::ECONNREFUSED, libc::EIO, libc::ENOENT] {
            assert_eq!(wrapped(code), [Verdict::Passing; 2]);
        }
    }
}
