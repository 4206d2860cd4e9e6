//! The topics that a source reads, and short names for them and their partitions, which records and
//! queues carry instead of texts.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::protocol::TopicPartition;

/// A topic by its place among the [`Topics`] that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicIndex(u32);

impl TopicIndex {
    /// As an index into a list of one for each topic.
    #[inline]
    pub(crate) fn at(self) -> usize {
        self.0 as usize
    }
}

/// A partition by the index of its topic and its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionId {
    /// Its topic.
    pub topic: TopicIndex,
    /// Its number within the topic.
    pub partition: i32,
}

/// A set of topics, in the order of their names: partitions have the same order by
/// [`PartitionId`] as by [`TopicPartition`]. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topics(Arc<[String]>);

impl Topics {
    /// These topics, each once.
    pub(crate) fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names: BTreeSet<String> = names.into_iter().map(Into::into).collect();
        Self(names.into_iter().collect())
    }

    /// The topics and their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TopicIndex, &str)> {
        (0..).map(TopicIndex).zip(self.0.iter().map(String::as_str))
    }

    /// The name of one of these topics; the index must come from this set.
    pub(crate) fn name(&self, topic: TopicIndex) -> &str {
        &self.0[topic.at()]
    }

    /// The topic of this name, if it is one of these.
    pub(crate) fn index(&self, name: &str) -> Option<TopicIndex> {
        let at = self.0.binary_search_by(|each| each.as_str().cmp(name)).ok()?;
        u32::try_from(at).ok().map(TopicIndex)
    }

    /// The partition by its short name, if its topic is one of these.
    pub(crate) fn id(&self, tp: &TopicPartition) -> Option<PartitionId> {
        Some(PartitionId { topic: self.index(&tp.topic)?, partition: tp.partition })
    }

    /// The partition by its full name; its topic's index must come from this set.
    pub(crate) fn tp(&self, id: PartitionId) -> TopicPartition {
        TopicPartition::new(self.name(id.topic), id.partition)
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_named_once_each_in_their_order_and_found_by_name() {
        let topics = Topics::new(["b", "a", "c", "b"]);
        assert_eq!(topics.to_string(), "a, b, c");
        for (index, name) in topics.iter() {
            assert_eq!((topics.index(name), topics.name(index)), (Some(index), name));
        }
        assert_eq!(topics.iter().count(), 3);
        assert_eq!(["", "aa", "d"].map(|name| topics.index(name)), [None; 3]);
    }

    #[test]
    fn partitions_have_the_order_of_their_full_names() {
        let topics = Topics::new(["b", "a-b", "a.b"]);
        let all = ["a.b", "b", "a-b"].map(|topic| [10, 9].map(|n| TopicPartition::new(topic, n)));
        let mut all = all.concat();
        let mut ids: Vec<PartitionId> = all.iter().map(|tp| topics.id(tp).unwrap()).collect();
        all.sort();
        ids.sort();
        assert_eq!(ids.into_iter().map(|id| topics.tp(id)).collect::<Vec<_>>(), all);
        assert_eq!(topics.id(&TopicPartition::new("a", 9)), None);
    }
}
