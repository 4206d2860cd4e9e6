//! What a run is told by the settings.

use std::time::Duration;

use crate::config::{Assignment, BadRecords, Config, OffsetReset};
use crate::protocol::{ResetPolicy, Trigger};

/// Soon enough for a person who alters a table and then produces to it.
const FRESH: Duration = Duration::from_secs(1);

/// What recovering may take beside a server that is waited for.
const RECOVERY_MORE: Duration = Duration::from_secs(120);

/// What a run is told by the settings.
#[derive(Clone, Debug)]
pub(crate) struct RunSettings {
    /// The pipeline: its ledger's name, and its consumer group's.
    pub pipeline: String,
    /// The topic.
    pub topic: String,
    /// Shards.
    pub parallelism: usize,
    /// Does the consumer group share the partitions out?
    pub group: bool,
    /// When to seal.
    pub trigger: Trigger,
    /// Longest that sealing may take.
    pub checkpoint_timeout: Duration,
    /// Checkpoints to keep for people to read.
    pub retained: usize,
    /// Longest that a stop waits for its last commit.
    pub shutdown_timeout: Duration,
    /// Longest that revoked partitions wait for theirs.
    pub revocation_timeout: Duration,
    /// How long a server that does not answer is tried.
    pub retry_give_up: Duration,
    /// How old a reading of a table may be for which files are opened after a pause; where epochs follow
    /// each other at once, a checkpoint interval more, since a commit is as old then.
    pub fresh: Duration,
    /// Where to begin in a topic that the table has no ledger of.
    pub reset: ResetPolicy,
    /// What to do with bad records.
    pub bad_records: BadRecords,
    /// Is what was found in one nobody's to read?
    pub hide_values: bool,
}

impl RunSettings {
    /// How long a stop waits for its last commit: the rest of its time is for what is to be closed then.
    pub(crate) fn last_commit(&self) -> Duration {
        self.shutdown_timeout / 10 * 9
    }

    /// How long recovering may rightly take: servers are waited for, one after another.
    pub(crate) fn recovery(&self) -> Duration {
        self.retry_give_up.saturating_add(RECOVERY_MORE)
    }

    /// From the settings of the process.
    pub(crate) fn new(config: &Config) -> Self {
        let checkpoint = &config.checkpoint;
        Self {
            pipeline: config.kafka.group_id.clone(),
            topic: config.kafka.topic.clone(),
            parallelism: config.parallelism.max(1),
            group: config.kafka.assignment == Assignment::Group,
            trigger: Trigger {
                interval: checkpoint.interval,
                min_pause: checkpoint.min_pause,
                max_bytes: checkpoint.max_bytes,
                max_records: checkpoint.max_records,
                max_described: config.shares().described,
            },
            checkpoint_timeout: checkpoint.timeout,
            retained: checkpoint.retained,
            shutdown_timeout: config.shutdown_timeout,
            revocation_timeout: config.kafka.revocation_timeout,
            retry_give_up: config.retry_give_up,
            fresh: FRESH,
            reset: match config.kafka.auto_offset_reset {
                OffsetReset::Earliest => ResetPolicy::Earliest,
                OffsetReset::Latest => ResetPolicy::Latest,
            },
            bad_records: config.bad_records,
            hide_values: config.hide_values,
        }
    }
}
