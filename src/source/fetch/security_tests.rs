use super::*;
use crate::source::fetch::scram::ScramError;

const PASSWORD: &str = "hunter2";

fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs.iter().copied().collect()
}

fn login(mechanism: &str) -> Login {
    let set =
        [("sasl.mechanism", mechanism), ("sasl.username", "ice"), ("sasl.password", PASSWORD)];
    Login::new(&properties(&set)).unwrap()
}

/// An answer to the handshake: this error, and one mechanism.
fn handshake(error: i16) -> Vec<u8> {
    let mut answer = vec![0; 4];
    answer.extend(error.to_be_bytes());
    answer.extend(1i32.to_be_bytes());
    answer.extend(5i16.to_be_bytes());
    answer.extend(b"PLAIN");
    answer
}

/// An answer to a step, in version 1.
fn step(error: i16, detail: &str, message: &[u8], lifetime: i64) -> Vec<u8> {
    let mut answer = vec![0; 4];
    answer.extend(error.to_be_bytes());
    answer.extend(i16::try_from(detail.len()).unwrap().to_be_bytes());
    answer.extend(detail.as_bytes());
    answer.extend(i32::try_from(message.len()).unwrap().to_be_bytes());
    answer.extend(message);
    answer.extend(lifetime.to_be_bytes());
    answer
}

/// Logs in where a broker gives these answers. Returns the requests too.
fn run(
    login: &Login,
    answers: Vec<Vec<u8>>,
) -> (Result<Option<Duration>, ExchangeError>, Vec<Vec<u8>>) {
    let (mut answers, mut requests) = (answers.into_iter(), Vec::new());
    let result = login.run(1, |request| {
        requests.push(request.to_vec());
        Ok(answers.next().unwrap())
    });
    assert_eq!(answers.len(), 0, "answers that nobody asked for");
    (result, requests)
}

#[test]
fn a_plain_login_tells_user_and_password_and_learns_when_it_ends() {
    for (millis, lifetime) in [(0, None), (-1, None), (1500, Some(Duration::from_millis(1500)))] {
        let (result, requests) = run(&login("PLAIN"), vec![handshake(0), step(0, "", b"", millis)]);
        assert_eq!(result.unwrap(), lifetime);
        assert_eq!(requests.len(), 2);
        assert!(requests[0].ends_with(b"\0\x05PLAIN"));
        assert!(requests[1].ends_with(b"\0\0\0\x0c\0ice\0hunter2"));
    }
}

#[test]
fn a_refused_login_says_what_the_broker_says_and_never_the_password() {
    let said = "hunter2 is wrong\n\u{1b}[2J for ice";
    let (result, _) = run(&login("PLAIN"), vec![handshake(0), step(58, said, b"", 0)]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("error 58: *** is wrong\\n\\u{1b}[2J for ice"), "{error}");
    assert!(error.contains("KAFKA_SASL_*"), "{error}");
    let long = "x".repeat(10_000);
    let (result, _) = run(&login("PLAIN"), vec![handshake(0), step(58, &long, b"", 0)]);
    assert!(result.unwrap_err().to_string().len() < 500);
}

#[test]
fn a_mechanism_that_the_broker_does_not_know_is_told_with_those_it_knows() {
    let (result, requests) = run(&login("SCRAM-SHA-512"), vec![handshake(33)]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("SCRAM-SHA-512; it knows: PLAIN"), "{error}");
    assert_eq!(requests.len(), 1, "the login went on");
}

#[test]
fn a_broker_that_does_not_keep_to_scram_gets_no_proof() {
    let first = b"r=another,s=AAAA,i=4096";
    let (result, requests) =
        run(&login("SCRAM-SHA-256"), vec![handshake(0), step(0, "", first, 0)]);
    assert!(matches!(result, Err(ExchangeError::Scram(ScramError::Nonce))), "{result:?}");
    assert_eq!(requests.len(), 2);
}

#[test]
fn an_answer_cut_off_ends_the_login() {
    let mut cut = step(0, "", b"", 0);
    cut.pop();
    let (result, _) = run(&login("PLAIN"), vec![handshake(0), cut]);
    assert!(matches!(result, Err(ExchangeError::Malformed(_))), "{result:?}");
}

#[test]
fn settings_that_cannot_be_used_are_named_without_what_is_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    std::fs::write(&path, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2\n-----END").unwrap();
    let (file, absent) = (path.to_str().unwrap(), dir.path().join("absent"));
    let empty = dir.path().to_str().unwrap();
    let absent = absent.to_str().unwrap();
    let ssl = ("security.protocol", "ssl");
    let cases = [
        (vec![("security.protocol", "tls")], "`tls` is no protocol"),
        (vec![("security.protocol", "sasl_plaintext")], "no sasl.mechanism"),
        (vec![ssl, ("ssl.ca.location", absent)], "absent: "),
        (vec![ssl, ("ssl.ca.location", file)], "key.pem: "),
        (vec![ssl, ("ssl.ca.location", empty)], "no certificate of an authority"),
    ];
    for (pairs, expected) in cases {
        let error = Security::new(&properties(&pairs)).err().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn without_a_protocol_nothing_is_protected() {
    let security = Security::new(&Properties::default()).unwrap();
    assert!(security.tls.is_none() && security.login.is_none());
}
