use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslAuthenticateResponse,
    SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::*;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

/// An answer in `version`, with its header in that of the request.
fn answer(header: i16, version: i16, response: &impl Encodable) -> Vec<u8> {
    let mut out = BytesMut::new();
    ResponseHeader::default().encode(&mut out, header).unwrap();
    response.encode(&mut out, version).unwrap();
    out.to_vec()
}

fn header_of(version: i16) -> i16 {
    i16::from(version >= 2)
}

/// The body of a request, whose header must be of this number and version.
fn body(frame: &[u8], api: i16, version: i16) -> Bytes {
    let mut bytes = Bytes::copy_from_slice(frame);
    assert_eq!(bytes.get_u32() as usize, bytes.len());
    let header = RequestHeader::decode(&mut bytes, 1 + header_of(version)).unwrap();
    assert_eq!((header.request_api_key, header.request_api_version), (api, version));
    bytes
}

#[test]
fn requests_are_what_kafka_reads() {
    let mut bytes = body(&handshake_request("SCRAM-SHA-256"), 17, 1);
    let request = SaslHandshakeRequest::decode(&mut bytes, 1).unwrap();
    assert_eq!((request.mechanism.as_str(), bytes.len()), ("SCRAM-SHA-256", 0));
    for version in 0..=2 {
        let message = vec![7; 300];
        // SaslAuthenticate is flexible from version 2 on.
        let mut bytes = body(&step_request(version, &message), 36, version);
        let request = SaslAuthenticateRequest::decode(&mut bytes, version).unwrap();
        assert_eq!((request.auth_bytes.to_vec(), bytes.len()), (message, 0));
    }
}

#[test]
fn answers_are_read_in_every_version() {
    let response = SaslHandshakeResponse::default()
        .with_error_code(33)
        .with_mechanisms(vec![text("PLAIN"), text("GSSAPI")]);
    let (error, mechanisms) = handshake_answer(&answer(0, 1, &response)).unwrap();
    assert_eq!((error, mechanisms), (33, vec!["PLAIN".to_owned(), "GSSAPI".to_owned()]));
    for version in 0..=2 {
        for (detail, millis) in [(None, 0), (Some(text("no")), 3_600_000), (None, i64::MIN)] {
            let millis = if version >= 1 { millis } else { 0 };
            let response = SaslAuthenticateResponse::default()
                .with_error_code(58)
                .with_error_message(detail.clone())
                .with_auth_bytes(Bytes::from_static(b"v=1"))
                .with_session_lifetime_ms(millis);
            let step = step_answer(&answer(header_of(version), version, &response), version);
            let step = step.unwrap();
            assert_eq!((step.error, step.message.as_slice()), (58, b"v=1".as_slice()));
            assert_eq!(step.detail, detail.map(|said| said.to_string()).unwrap_or_default());
            let lifetime = (millis > 0).then(|| Duration::from_secs(3600));
            assert_eq!(step.lifetime, lifetime);
        }
    }
}

#[test]
fn an_answer_that_is_cut_off_is_an_error() {
    let response = SaslAuthenticateResponse::default()
        .with_error_message(Some(text("no")))
        .with_auth_bytes(Bytes::from_static(b"v=1"));
    for version in 0..=2 {
        let whole = answer(header_of(version), version, &response);
        for end in 0..whole.len() {
            step_answer(&whole[..end], version).unwrap_err();
        }
    }
    let response = SaslHandshakeResponse::default().with_mechanisms(vec![text("PLAIN")]);
    let whole = answer(0, 1, &response);
    for end in 0..whole.len() {
        handshake_answer(&whole[..end]).unwrap_err();
    }
    let mut another = whole;
    another[3] = 9;
    handshake_answer(&another).unwrap_err();
}
