use super::*;

/// The exchange of RFC 7677, section 3; for SHA-512 the same one, computed with Python's hashlib.
const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=";
const CASES: [(Hash, &str, &str); 2] = [
    (
        Hash::Sha256,
        "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
    (
        Hash::Sha512,
        "gMGXRcevScNtxZ6/8lQYpGtnsNAc3mGcmNomv+xnoOMw+3R2xNJdMNnzMlTN8PPC6wdp6dybEmDYXYTxwnYPJQ==",
        "v=ZQnYEgWQMFmmsM8aQMF0nDDCy/AgCzkwk8CmMZYcMg0vSVlKDanekLtifDSeVGT4+5ZxXnJq199RVG2rR7N7Zw==",
    ),
];

fn client(hash: Hash) -> Client<'static> {
    Client::with_nonce(hash, "user", "pencil", NONCE.to_owned())
}

fn refusal(first: &str) -> ScramError {
    client(Hash::Sha256).answer(first.as_bytes()).err().unwrap()
}

#[test]
fn the_exchange_of_the_rfc_is_made_byte_by_byte() {
    for (hash, proof, server) in CASES {
        let client = client(hash);
        assert_eq!(client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, expected) = client.answer(FIRST.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(last).unwrap(), format!("{LAST}{proof}"));
        assert_eq!(expected.check(server.as_bytes()), Ok(()));
    }
}

#[test]
fn a_broker_that_does_not_know_the_password_is_not_believed() {
    for ((hash, _, _), (_, _, other)) in CASES.iter().zip(CASES.iter().rev()) {
        let (_, expected) = client(*hash).answer(FIRST.as_bytes()).unwrap();
        for wrong in [*other, "v=", "v=AAAA"] {
            assert_eq!(expected.check(wrong.as_bytes()), Err(ScramError::Signature));
        }
        assert!(matches!(expected.check(b"v=!"), Err(ScramError::Malformed(_))));
        assert!(matches!(expected.check(b""), Err(ScramError::Malformed(_))));
        assert!(matches!(expected.check(b"v=\xff"), Err(ScramError::Malformed(_))));
        let refused = ScramError::Refused("invalid-proof".to_owned());
        assert_eq!(expected.check(b"e=invalid-proof"), Err(refused));
    }
}

#[test]
fn a_nonce_that_is_not_ours_with_more_behind_it_ends_the_login() {
    for nonce in ["", "other", NONCE, &NONCE[1..]] {
        assert_eq!(refusal(&FIRST.replacen(&FIRST[2..52], nonce, 1)), ScramError::Nonce);
    }
}

#[test]
fn rounds_are_neither_few_nor_endless() {
    for (rounds, number) in
        [("0", 0), ("1", 1), ("4095", 4095), ("1000001", 1_000_001), ("4294967295", u32::MAX)]
    {
        assert_eq!(
            refusal(&FIRST.replace("i=4096", &format!("i={rounds}"))),
            ScramError::Rounds(number)
        );
    }
    for rounds in ["", "-1", "many", "4294967296"] {
        let error = refusal(&FIRST.replace("i=4096", &format!("i={rounds}")));
        assert!(matches!(error, ScramError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_first_message_that_is_not_one_ends_the_login() {
    let salt = "s=W22ZaJ0SNY7soEsUEjb6gQ==,";
    for wrong in [
        "",
        "r",
        ",",
        &FIRST.replace(salt, ""),
        &FIRST.replace(salt, "s=!,"),
        &format!("m=x,{FIRST}"),
    ] {
        assert!(matches!(refusal(wrong), ScramError::Malformed(_)), "{wrong}");
    }
    let refused = ScramError::Refused("unknown-user".to_owned());
    assert_eq!(refusal("e=unknown-user"), refused);
    assert!(matches!(client(Hash::Sha512).answer(b"\xff").err(), Some(ScramError::Malformed(_))));
}

#[test]
fn a_user_with_a_comma_or_an_equals_sign_is_escaped() {
    let client = Client::with_nonce(Hash::Sha256, "a=b,c", "pencil", NONCE.to_owned());
    assert_eq!(client.first(), format!("n,,n=a=3Db=2Cc,r={NONCE}").into_bytes());
}

#[test]
fn each_login_has_a_nonce_of_its_own() {
    let [one, other] = [(); 2].map(|()| Client::new(Hash::Sha256, "user", "pencil").unwrap().nonce);
    assert!(one != other && one.len() == 32, "{one} {other}");
}
