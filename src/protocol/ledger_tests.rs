use proptest::collection::btree_map;
use proptest::prelude::*;

use super::*;
use crate::protocol::fixtures::{frontier, ledger, pending, tp};

fn malformed(text: &str) -> bool {
    matches!(decode_ledger(text), Err(LedgerError::Malformed { .. }))
}

#[test]
fn a_ledger_is_written_in_one_known_way() {
    let text = encode_ledger(&ledger("c9", &[(10, 4), (2, 17)])).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"cluster":"cluster-1","commit":"c9","topics":{"readings":{"id":"topic-1","next":{"2":17,"10":4}}}}"#
    );
}

#[test]
fn a_ledger_that_was_edited_says_how_often() {
    let edited = Ledger { generation: 3, ..ledger("c9", &[(0, 1)]) };
    let text = encode_ledger(&edited).unwrap();
    assert!(text.contains(r#""commit":"c9","generation":3,"topics""#), "{text}");
    assert_eq!(decode_ledger(&text), Ok(edited));
}

#[test]
fn a_topic_that_begins_anew_stays_known() {
    for id in ["topic-2", ""] {
        let mut reset = ledger("c9", &[]);
        reset.topic_ids.insert("readings".into(), id.into());
        let text = encode_ledger(&reset).unwrap();
        assert!(text.contains(r#""next":{}"#), "{text}");
        assert_eq!(decode_ledger(&text), Ok(reset));
    }
}

#[test]
fn a_topic_without_an_id_is_written_without_one() {
    let mut bare = ledger("c9", &[(0, 1)]);
    bare.topic_ids.clear();
    let text = encode_ledger(&bare).unwrap();
    assert!(text.ends_with(r#""topics":{"readings":{"next":{"0":1}}}}"#), "{text}");
    assert_eq!(decode_ledger(&text), Ok(bare));
}

#[test]
fn an_unknown_version_is_told_apart_from_a_malformed_ledger() {
    let newer = r#"{"v":2,"whatever":[]}"#;
    assert_eq!(decode_ledger(newer), Err(LedgerError::UnknownVersion { found: "2".into() }));
    for text in [r#"{"v":"1"}"#, r#"{"v":-1}"#, r#"{"v":1.5}"#, "{}", "", "null", "[1]"] {
        assert!(malformed(text), "{text}");
    }
}

#[test]
fn a_ledger_that_is_not_exactly_of_its_form_is_malformed() {
    let with = |topics: &str| format!(r#"{{"v":1,"cluster":"k","commit":"c","topics":{topics}}}"#);
    assert!(decode_ledger(&with(r#"{"t":{"id":"i","next":{"0":5}}}"#)).is_ok());
    for topics in [
        r#"{"t":{"next":{"0":-5}}}"#,
        r#"{"t":{"next":{"-1":5}}}"#,
        r#"{"t":{"next":{"00":5}}}"#,
        r#"{"t":{"next":{"+1":5}}}"#,
        r#"{"t":{"next":{"x":5}}}"#,
        r#"{"t":{"next":{"0":5,"0":6}}}"#,
        r#"{"t":{"next":{"0":5}},"t":{"next":{"1":5}}}"#,
        r#"{"t":{"next":{"0":5.0}}}"#,
        r#"{"t":{"next":{"0":"5"}}}"#,
        r#"{"t":{"next":{"0":null}}}"#,
        r#"{"t":{"next":{"0":9223372036854775808}}}"#,
        r#"{"t":{"next":{"2147483648":5}}}"#,
        r#"{"t":{"next":{"0":5},"extra":1}}"#,
        r#"{"t":{}}"#,
        r#"{"":{"next":{"0":5}}}"#,
        "[]",
    ] {
        assert!(malformed(&with(topics)), "{topics}");
    }
    assert!(malformed(r#"{"v":1,"cluster":"k","commit":"","topics":{}}"#));
    assert!(malformed(r#"{"v":1,"cluster":"k","commit":"c","topics":{},"extra":1}"#));
    assert!(malformed(r#"{"v":1,"v":1,"cluster":"k","commit":"c","topics":{}}"#));
    assert!(malformed(r#"{"v":1,"cluster":"k","commit":"c","topics":{}} x"#));
}

#[test]
fn a_partition_that_stands_at_the_first_offset_of_all_is_written_and_read() {
    let first = ledger("c9", &[(0, 0)]);
    assert_eq!(decode_ledger(&encode_ledger(&first).unwrap()), Ok(first));
}

#[test]
fn a_malformed_ledger_is_named_with_what_is_wrong() {
    let with = |topics: &str| format!(r#"{{"v":1,"cluster":"k","commit":"c","topics":{topics}}}"#);
    for (topics, wrong) in [
        ("[]", "expected a map without repeated keys"),
        (r#"{"t":{"next":{"0":5,"0":6}}}"#, "a key stands twice"),
        (r#"{"t":{"next":{"x":5}}}"#, "expected a partition number"),
        (r#"{"t":{"next":{"0":-5}}}"#, "t[0] has the offset -5"),
    ] {
        let error = decode_ledger(&with(topics)).unwrap_err().to_string();
        assert!(error.contains("`icestream.ledger`") && error.contains(wrong), "{error}");
    }
}

#[test]
fn a_ledger_that_could_not_be_read_again_is_not_written() {
    for bad in [ledger("", &[(0, 1)]), ledger("c", &[(0, -1)]), ledger("c", &[(-1, 1)])] {
        assert!(encode_ledger(&bad).is_err());
    }
}

#[test]
fn a_ledger_that_cannot_be_read_is_a_refusal_to_write_the_table() {
    let refusal = |text: &str| decode_ledger(text).unwrap_err().refusal("lake.t").name();
    assert_eq!(refusal(r#"{"v":2}"#), "unknown-ledger-version");
    assert_eq!(refusal("{"), "ledger-unreadable");
}

#[test]
fn a_commit_moves_its_partitions_and_keeps_those_of_others() {
    let before = ledger("a", &[(0, 10), (1, 7)]);
    let after = advance(Some(&before), &pending("x", &[(0, 10)], &[(0, 10, 20), (2, 5, 5)]));
    assert_eq!(after, ledger("x", &[(0, 20), (1, 7), (2, 5)]));
}

#[test]
fn a_first_commit_makes_the_ledger() {
    let after = advance(None, &pending("x", &[], &[(0, 3, 8)]));
    assert_eq!(after, ledger("x", &[(0, 8)]));
}

#[test]
fn a_commit_that_does_not_know_an_id_keeps_the_one_in_the_ledger() {
    let mut unknowing = pending("x", &[(0, 10)], &[(0, 10, 20)]);
    unknowing.cluster_id.clear();
    unknowing.topic_ids.insert("readings".into(), String::new());
    assert_eq!(advance(Some(&ledger("a", &[(0, 10)])), &unknowing), ledger("x", &[(0, 20)]));
}

#[test]
fn the_property_key_names_the_pipeline() {
    assert_eq!(ledger_key("flow.a"), "icestream.ledger.flow.a");
    assert_eq!(pipeline_of_key("icestream.ledger.flow.a"), Some("flow.a"));
    assert_eq!(pipeline_of_key("icestream.ledger."), None);
    assert_eq!(pipeline_of_key("owner"), None);
}

fn any_ledger() -> impl Strategy<Value = Ledger> {
    let topic = "[a-zA-Z0-9._-]{1,8}";
    let next = btree_map((topic, 0..=i32::MAX), 0..=Offset::MAX, 0..12);
    let ids = btree_map(topic, ".{1,9}", 0..3);
    (".*", "[0-9a-f]{1,32}", any::<u64>(), ids, next).prop_map(
        |(cluster_id, commit, generation, topic_ids, next)| Ledger {
            generation,
            cluster_id,
            commit_id: CommitId(commit),
            topic_ids,
            frontier: next
                .into_iter()
                .map(|((topic, p), offset)| (TopicPartition::new(topic, p), offset))
                .collect(),
        },
    )
}

proptest! {
    #[test]
    fn every_ledger_survives_being_written_and_read(ledger in any_ledger()) {
        let text = encode_ledger(&ledger).unwrap();
        prop_assert_eq!(decode_ledger(&text), Ok(ledger));
    }

    #[test]
    fn decoding_never_panics_and_what_it_accepts_is_written_alike(text in ".*") {
        if let Ok(ledger) = decode_ledger(&text) {
            prop_assert_eq!(decode_ledger(&encode_ledger(&ledger).unwrap()), Ok(ledger));
        }
    }

    #[test]
    fn a_damaged_ledger_never_panics_and_never_has_a_negative_offset(
        ledger in any_ledger(), at in any::<prop::sample::Index>(), with in "[\\x20-\\x7e]",
    ) {
        let mut text = encode_ledger(&ledger).unwrap();
        let chars: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let at = chars[at.index(chars.len())];
        let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
        text.replace_range(at..end, &with);
        if let Ok(ledger) = decode_ledger(&text) {
            prop_assert!(ledger.frontier.iter().all(|(tp, next)| tp.partition >= 0 && next >= 0));
        }
    }
}

#[test]
fn partitions_are_sorted_as_numbers_in_a_frontier() {
    let order: Vec<i32> = frontier(&[(10, 0), (2, 0)]).iter().map(|(tp, _)| tp.partition).collect();
    assert_eq!(order, [2, 10]);
    assert_eq!(tp(2).to_string(), "readings[2]");
}
