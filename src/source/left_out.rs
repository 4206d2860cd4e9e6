//! What a consumer group leaves to nobody, and whom it is shared with.
//!
//! All brokers are asked: the client's newer request, to the coordinator alone, aborts the process where
//! the coordinator answers after its time.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::client::Client;

use super::SourceContext;
use super::admin::{self, ListedMember};
use super::fetch::{Decoder, Malformed};
use crate::protocol::TopicPartition;

/// The state of a group that is not about to share its partitions out anew.
const STABLE: &str = "Stable";
/// The group makes the id of a member with a set name of that name, a dash and a UUID.
const ID_AFTER_NAME: usize = 37;
/// How clients of icestream begin to call themselves.
const CLIENT: &str = "icestream:";

/// What a group leaves to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The partitions, in order; none unless it is settled.
    pub partitions: Vec<TopicPartition>,
    /// Is the group not about to share its partitions out anew?
    pub is_settled: bool,
    /// Does the group count us among its members?
    pub is_member: bool,
    /// Members before us: they have fewer partitions, or as many and a smaller id.
    pub before: u32,
    /// The tables into which other members carry what is theirs: each pipeline lacks what the other reads.
    pub others: BTreeSet<String>,
}

/// A client that is a member for the pipeline into `tables` calls itself this.
pub(super) fn client_id(tables: &str) -> String {
    format!("{CLIENT}{tables}")
}

/// The tables into which other members of a group carry. `own` is the name that our member has set, under
/// which an earlier process of ours may still be known; `None`: no answer came in time.
pub(super) fn elsewhere(
    client: &Client<SourceContext>,
    group: &str,
    own: &str,
    tables: &str,
    timeout: Duration,
) -> Option<BTreeSet<String>> {
    let (_, members) = admin::list_members(client, group, timeout)?;
    Some(tables_of_others(&members, own, tables))
}

fn tables_of_others(members: &[ListedMember], own: &str, tables: &str) -> BTreeSet<String> {
    let others = members.iter().filter(|member| !is_own(&member.id, own));
    let theirs = others.filter_map(|member| member.client_id.strip_prefix(CLIENT));
    theirs.filter(|theirs| *theirs != tables).map(str::to_owned).collect()
}

fn is_own(id: &str, own: &str) -> bool {
    id.len() == own.len() + ID_AFTER_NAME && id.starts_with(own)
}

/// A member of a group.
struct Member {
    id: String,
    assigned: BTreeSet<TopicPartition>,
}

/// Of these partitions. `own` is the name that our member has set, `tables` what we carry into. `None`: no
/// answer came in time.
pub(super) fn left_out(
    client: &Client<SourceContext>,
    group: &str,
    own: &str,
    tables: &str,
    all: &[TopicPartition],
    timeout: Duration,
) -> Option<LeftOut> {
    let (state, members) = admin::list_members(client, group, timeout)?;
    let others = tables_of_others(&members, own, tables);
    let is_member = members.iter().any(|member| is_own(&member.id, own));
    if state != STABLE {
        return Some(LeftOut { others, is_member, ..LeftOut::default() });
    }
    let member = |ListedMember { id, assignment, .. }: ListedMember| {
        assigned_to(&assignment).map(|assigned| Member { id, assigned })
    };
    let members: Result<Vec<Member>, Malformed> = members.into_iter().map(member).collect();
    let members = members.inspect_err(|error| tracing::debug!(%error, group, "an assignment"));
    Some(LeftOut { others, ..judge(all, &members.ok()?, own) })
}

fn judge(all: &[TopicPartition], members: &[Member], own: &str) -> LeftOut {
    let assigned: BTreeSet<&TopicPartition> =
        members.iter().flat_map(|member| &member.assigned).collect();
    let us = members.iter().find(|member| is_own(&member.id, own)).map(Member::place);
    let before = |member: &&Member| us.is_none_or(|us| member.place() < us);
    LeftOut {
        is_settled: true,
        is_member: us.is_some(),
        partitions: all.iter().filter(|tp| !assigned.contains(tp)).cloned().collect(),
        before: u32::try_from(members.iter().filter(before).count()).unwrap_or(u32::MAX),
        others: BTreeSet::new(),
    }
}

impl Member {
    fn place(&self) -> (usize, &str) {
        (self.assigned.len(), &self.id)
    }
}

/// Reads what a member is assigned (Kafka's ConsumerProtocolAssignment, of which later versions only add
/// to the end); one that has nothing yet has no bytes.
fn assigned_to(bytes: &[u8]) -> Result<BTreeSet<TopicPartition>, Malformed> {
    let mut assigned = BTreeSet::new();
    if bytes.is_empty() {
        return Ok(assigned);
    }
    let mut decoder = Decoder::new(bytes, false);
    decoder.i16()?;
    for _ in 0..decoder.count()? {
        let topic = String::from_utf8_lossy(decoder.string()?).into_owned();
        for _ in 0..decoder.count()? {
            assigned.insert(TopicPartition::new(topic.as_str(), decoder.i32()?));
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::ConsumerProtocolAssignment;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as OfTopic;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    const UUID: &str = "5b1a5b0e-6f6c-4d0e-8d6c-2f8a3b1c9d7e";

    fn tps(numbers: &[i32]) -> Vec<TopicPartition> {
        numbers.iter().map(|number| TopicPartition::new("t", *number)).collect()
    }

    fn members(of: &[(&str, &[i32])]) -> Vec<Member> {
        let member = |(name, assigned): &(&str, &[i32])| Member {
            id: format!("{name}-{UUID}"),
            assigned: tps(assigned).into_iter().collect(),
        };
        of.iter().map(member).collect()
    }

    #[test]
    fn a_partition_is_left_out_that_no_member_has_and_the_poorest_is_the_first_to_act() {
        let all = tps(&[0, 1, 2, 3, 4, 5]);
        // One is called as the beginning of another.
        let group = members(&[("a", &[0, 1]), ("a-c", &[4]), ("a-b", &[5])]);
        let of = |own| judge(&all, &group, own);
        for (own, before) in [("a-b", 0), ("a-c", 1), ("a", 2)] {
            let (partitions, others) = (tps(&[2, 3]), BTreeSet::new());
            let (is_settled, is_member) = (true, true);
            assert_eq!(of(own), LeftOut { partitions, is_settled, is_member, before, others });
        }
        // One that the group does not know is the last.
        assert_eq!((of("x").before, of("x").is_member), (3, false));
    }

    #[test]
    fn nothing_is_left_out_where_each_partition_has_a_member() {
        let group = members(&[("a", &[0, 1]), ("b", &[2, 7])]);
        assert_eq!(judge(&tps(&[0, 1, 2]), &group, "a").partitions, []);
        assert_eq!(judge(&tps(&[0, 1]), &members(&[]), "a").partitions, tps(&[0, 1]));
    }

    #[test]
    fn members_that_carry_into_other_tables_are_told_and_nobody_else() {
        let member = |name: &str, client_id: &str| ListedMember {
            id: format!("{name}-{UUID}"),
            client_id: client_id.to_owned(),
            assignment: Vec::new(),
        };
        let members = [
            member("us", "icestream:db.before"),
            member("a", "icestream:db.t"),
            member("b", "icestream:db.u"),
            member("c", "set by a person"),
            member("us-too", "icestream:db.v"),
        ];
        let others = tables_of_others(&members, "us", "db.t");
        assert_eq!(others.into_iter().collect::<Vec<_>>(), ["db.u", "db.v"]);
        assert!(tables_of_others(&members[..2], "us", "db.t").is_empty());
    }

    #[test]
    fn an_assignment_is_read_as_clients_write_it_and_what_is_cut_off_is_none() {
        let of = |topic: &'static str, partitions: &[i32]| {
            OfTopic::default()
                .with_topic(TopicName(StrBytes::from_static_str(topic)))
                .with_partitions(partitions.to_vec())
        };
        for version in 0_i16..=3 {
            let assignment = ConsumerProtocolAssignment::default()
                .with_assigned_partitions(vec![of("t", &[3, 1]), of("other", &[0])]);
            let mut written = BytesMut::from(version.to_be_bytes().as_slice());
            assignment.encode(&mut written, version).unwrap();
            let mut expected: BTreeSet<_> = tps(&[1, 3]).into_iter().collect();
            expected.insert(TopicPartition::new("other", 0));
            assert_eq!(assigned_to(&written), Ok(expected));
            // What follows the partitions is the assignor's own.
            for end in 1..written.len() - 4 {
                assert!(assigned_to(&written[..end]).is_err(), "{end}");
            }
        }
        assert_eq!(assigned_to(&[]), Ok(BTreeSet::new()));
    }
}
