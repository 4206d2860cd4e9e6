//! Partitions that are given to us and taken back, and how they flow to the shards.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::client_queue::Forwarded;
use super::{
    Flows, JOIN_PATIENCE, LeftOut, Membership, Share, Source, SourceError, admin, left_out,
};
use crate::protocol::TopicPartition;

/// How long the group may take to tell its members before we join it.
const GROUP_PATIENCE: Duration = Duration::from_secs(3);

impl Source {
    /// Asks for partitions: the group for a share, or all of the topics. [`Self::take_changes`]
    /// tells what is given. True if it will be all. A group of another pipeline is not joined.
    pub(crate) fn join(&self) -> Result<bool, SourceError> {
        let Some(own) = &self.settings.group else {
            let all = self.partitions(JOIN_PATIENCE)?;
            self.consumer.context().push(Membership::Assigned(all));
            return Ok(true);
        };
        let others = self.elsewhere(&own.member, &own.tables, GROUP_PATIENCE).unwrap_or_default();
        if let Some(table) = others.into_iter().next() {
            let group = self.settings.group_id.clone();
            return Err(SourceError::OtherPipeline { group, table });
        }
        self.subscribe()?;
        Ok(false)
    }

    fn subscribe(&self) -> Result<(), SourceError> {
        let names: Vec<&str> = self.settings.topics.iter().map(|(_, name)| name).collect();
        let subscribed = self.consumer.subscribe(&names);
        subscribed.map_err(|e| self.operation("join the group", e.to_string()))
    }

    /// Which of these partitions the group leaves to nobody. `None` if no answer comes, or there is no
    /// group. Blocks for at most about `timeout`.
    pub(crate) fn left_out(&self, all: &[TopicPartition], timeout: Duration) -> Option<LeftOut> {
        let own = self.settings.group.as_ref()?;
        let (client, group) = (self.consumer.client(), &self.settings.group_id);
        left_out::left_out(client, group, &own.member, &own.tables, all, timeout)
    }

    /// The tables into which other members of the group carry, as far as it tells. Blocks for at most about
    /// `timeout`.
    pub(crate) fn elsewhere(
        &self,
        own: &str,
        tables: &str,
        timeout: Duration,
    ) -> Option<BTreeSet<String>> {
        let (client, group) = (self.consumer.client(), &self.settings.group_id);
        left_out::elsewhere(client, group, own, tables, timeout)
    }

    /// Joins the group again, so that it shares the partitions out anew. What is ours is revoked first,
    /// as [`Self::take_changes`] tells.
    pub(crate) fn rejoin(&self) -> Result<(), SourceError> {
        // Of a subscription that does not change, the client tells the group nothing. Without one it
        // gives up what it has, or leaves if it has nothing; the new one is put off until that is done.
        self.consumer.unsubscribe();
        self.subscribe()
    }

    /// Changes of the assignment since the last call, to be answered in their order by
    /// [`Self::assign`] and [`Self::revoke`].
    pub(crate) fn take_changes(&self) -> Vec<Membership> {
        let changes = self.consumer.context().take_changes();
        if self.settings.group.is_some()
            && let Some(last) = changes.last()
        {
            self.flows().unanswered = Some(match last {
                Membership::Assigned(partitions) => (true, bare(partitions.iter())),
                Membership::Revoked(partitions) => (false, self.held(partitions)),
                // All that is assigned is lost.
                Membership::Lost => (false, self.consumer.assignment().unwrap_or_default()),
            });
        }
        changes
    }

    /// Accepts an assignment: each partition is read from its offset into the queue of its shard. Those of
    /// the assignment that are not among them are ours for the group, and unknown to the client until
    /// [`Self::begin`].
    pub(crate) fn assign(&self, shares: &[Share]) -> Result<(), SourceError> {
        let list = self.listed(shares)?;
        self.forward(shares)?;
        self.assign_client(&list)?;
        self.fetch(shares, &list)
    }

    /// Begins to read partitions that are assigned and not read.
    pub(crate) fn begin(&self, shares: &[Share]) -> Result<(), SourceError> {
        let list = self.listed(shares)?;
        self.forward(shares)?;
        self.consumer
            .incremental_assign(&list)
            .map_err(|e| self.operation("begin", e.to_string()))?;
        self.fetch(shares, &list)
    }

    /// With a fetcher of our own the client is only to hold partitions, not to read them: what it fetched
    /// already stays in its queue, where nobody looks.
    fn fetch(&self, shares: &[Share], list: &TopicPartitionList) -> Result<(), SourceError> {
        let Some(fetcher) = &self.fetcher else { return Ok(()) };
        if list.count() > 0 {
            self.consumer
                .pause(list)
                .map_err(|e| self.operation("pause the client", e.to_string()))?;
        }
        fetcher.assign(shares).map_err(|e| self.operation("fetch", e.to_string()))
    }

    /// As the client takes them, each with its offset.
    fn listed(&self, shares: &[Share]) -> Result<TopicPartitionList, SourceError> {
        let mut list = TopicPartitionList::with_capacity(shares.len());
        for Share { tp, start, .. } in shares {
            list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(*start))
                .map_err(|e| self.operation("assign", e.to_string()))?;
        }
        Ok(list)
    }

    fn assign_client(&self, list: &TopicPartitionList) -> Result<(), SourceError> {
        let mut flows = self.flows();
        let assigned = match self.settings.group {
            None => self.consumer.assign(list),
            Some(_) => self.consumer.incremental_assign(list),
        };
        flows.unanswered = None;
        assigned.map_err(|e| self.operation("assign", e.to_string()))
    }

    /// Lets the client's queues flow into those of the shards. To be done before partitions are
    /// assigned: then no record can reach the consumer's own queue.
    fn forward(&self, shares: &[Share]) -> Result<(), SourceError> {
        let topics = &self.settings.topics;
        let ids = shares.iter().filter_map(|share| topics.id(&share.tp));
        let stale = admin::positions(self.consumer.client(), topics, ids);
        if let Some((id, offset)) = stale.first() {
            // A pause would send the client there, past records that are not read.
            let tp = topics.tp(*id);
            let detail = format!("{tp} still has the position {offset} of an earlier assignment");
            return Err(self.operation("assign", detail));
        }
        let mut flows = self.flows();
        for Share { tp, shard, .. } in shares {
            let target = flows.targets.get(*shard).cloned();
            let target =
                target.ok_or_else(|| self.operation("assign", format!("no shard {shard}")))?;
            // An older one would take the forwarding back when it is dropped.
            flows.forwarded.remove(tp);
            let forwarded = Forwarded::new(&self.consumer, tp, &target)
                .map_err(|detail| self.operation("assign", detail))?;
            flows.forwarded.insert(tp.clone(), forwarded);
        }
        Ok(())
    }

    /// Lets go of partitions: nothing more is read from them, and the group may give them away.
    pub(crate) fn revoke(&self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        if let Some(fetcher) = &self.fetcher {
            fetcher.revoke(partitions);
        }
        let mut flows = self.flows();
        let revoked = self.release(&mut flows, partitions);
        flows.unanswered = None;
        revoked
    }

    /// Reads nothing more from partitions, which stay ours for the group, until [`Self::begin`].
    pub(crate) fn set_aside(&self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        if let Some(fetcher) = &self.fetcher {
            fetcher.set_aside(partitions);
        }
        self.release(&mut self.flows(), partitions)
    }

    /// The client holds partitions no more.
    fn release(&self, flows: &mut Flows, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        let released = self.consumer.incremental_unassign(&self.held(partitions));
        for tp in partitions {
            flows.forwarded.remove(tp);
        }
        released.map_err(|e| self.operation("unassign", e.to_string()))
    }

    /// Those of the partitions that the client has: not those of which nobody knew where to begin.
    fn held(&self, partitions: &[TopicPartition]) -> TopicPartitionList {
        let assigned = self.consumer.assignment().unwrap_or_default();
        let is_held =
            |tp: &&TopicPartition| assigned.find_partition(&tp.topic, tp.partition).is_some();
        bare(partitions.iter().filter(is_held))
    }
}

/// Partitions without offsets.
pub(super) fn bare<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for tp in partitions {
        list.add_partition(&tp.topic, tp.partition);
    }
    list
}
