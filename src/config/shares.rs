//! How `MEMORY_LIMIT_MB` is shared out, so that the process stays below it.

const MIB: u64 = 1024 * 1024;

/// Code, runtime, catalog, table metadata, RocksDB and the clients' own: what a process takes that
/// reads nothing.
const BASE: u64 = 72 * MIB;
/// The least that a shard can work with.
const SHARD: u64 = 16 * MIB;
/// What librdkafka keeps for each message beside its bytes.
const MESSAGE: u64 = 600;
/// The most that a shard's batch holds: its columns stay in a core's second cache, from which they
/// are encoded right after they were decoded.
const BATCH: u64 = MIB;

/// What is bounded although it should be far from it, and the room that such a bound leaves in any case:
/// what one batch of records unpacks to, and one record as columns.
const ODD: (u64, u64) = (64 * MIB, 1 << 30);

/// What describes the files of an epoch is a part of the memory of open files. Never more than this: it
/// is one record of the checkpoint store, and files are ended one by one at the barrier.
const DESCRIBED: (u64, u64) = (32, 64 * MIB);

/// What each part of the process may take. The parts that cannot be counted (an answer of a broker
/// while it is unpacked, a batch while it is split, a row group while it is encoded) are given room
/// by a multiple of what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Bytes of one broker's answer, as they come over the network. It is unpacked at once, and each
    /// message in it costs some 600 bytes more: there is room for twelve times as much.
    pub fetch: u64,
    /// Bytes of messages that the client holds ready for one shard.
    pub queue: u64,
    /// Messages that the client holds ready for one shard.
    pub queue_messages: u64,
    /// Bytes that one batch of records may unpack to. Those of common producers take a hundredth of it.
    pub unpacked: u64,
    /// Bytes that one record may take: its text, and as columns.
    pub record: u64,
    /// Bytes of one shard's batch; decoded, taken and split there are up to four of them.
    pub batch: u64,
    /// Bytes of one shard's open files: row groups being encoded, what the codec keeps for them, and
    /// parts of uploads.
    pub files: u64,
    /// Bytes that the files of one epoch may take to describe, of all shards: it ends with them. While it
    /// is committed they are there several times, in the room of the files of the next one.
    pub described: u64,
    /// Bytes of the table's manifests and manifest lists that are kept between commits.
    pub metadata: u64,
}

impl Shares {
    /// The shares of `limit` bytes among so many shards.
    pub(crate) fn new(limit: u64, shards: usize) -> Self {
        let rest = limit.saturating_sub(BASE);
        let shards = shards.max(1) as u64;
        let shard = rest / shards;
        let files = (shard * 4 / 10).max(5 * MIB);
        Self {
            fetch: (rest / 96).clamp(MIB, 8 * MIB),
            queue: (shard / 16).clamp(MIB, 1 << 30),
            queue_messages: (shard / 16 / MESSAGE).clamp(1_000, 20_000),
            unpacked: (rest / 4).clamp(ODD.0, ODD.1),
            record: (rest / 8).clamp(ODD.0 / 2, ODD.1),
            batch: (shard / 24).clamp(MIB / 2, BATCH),
            files,
            described: (files * shards / DESCRIBED.0).clamp(MIB, DESCRIBED.1),
            metadata: (rest / 32).clamp(MIB, 16 * MIB),
        }
    }

    /// How many shards there may be.
    pub(crate) fn most_shards(limit: u64) -> usize {
        let most = limit.saturating_sub(BASE) / SHARD;
        usize::try_from(most).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_shares_together_with_the_room_around_them_are_within_the_limit(
            limit in 128u64..1_048_576, shards in 1usize..256,
        ) {
            let limit = limit * MIB;
            let shards = shards.min(Shares::most_shards(limit));
            let shares = Shares::new(limit, shards);
            // A batch four times, and a row group once more while it is ended.
            let shard = shares.queue + shares.queue_messages * MESSAGE
                + 4 * shares.batch + shares.files * 11 / 8;
            let total = BASE + shares.metadata + 12 * shares.fetch + shard * shards as u64;
            prop_assert!(total <= limit, "{total} of {limit}: {shares:?} for {shards}");
        }
    }
}
