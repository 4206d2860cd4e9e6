//! The values that labels take, as types: a label that is one of these is bounded by construction.

/// A label whose values are known beforehand.
pub(super) trait Label: Copy + 'static {
    /// Every value, so that each series exists from the start.
    const ALL: &'static [Self];
    /// The value as it stands in a series.
    fn text(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

label! {
    /// A server that icestream depends on.
    Server {
        /// The Kafka cluster.
        Kafka = "kafka",
        /// The Iceberg catalog.
        Catalog = "catalog",
        /// Where the tables' files are: S3 or local files.
        Store = "store",
    }
}

label! {
    /// A step of a checkpoint, in order.
    Step {
        /// The barrier goes through every shard, and the files become durable.
        Seal = "seal",
        /// The checkpoint is synced in RocksDB.
        Prepare = "prepare",
        /// The table takes the pending commit.
        Commit = "commit",
        /// The checkpoint becomes complete in RocksDB.
        Finalize = "finalize",
        /// The group offsets go to Kafka.
        Report = "report",
    }
}

label! {
    /// What became of a checkpoint.
    CheckpointOutcome {
        /// Finalized.
        Complete = "complete",
        /// A step of it failed.
        Failed = "failed",
        /// The shards did not seal in time.
        TimedOut = "timed_out",
        /// Another instance had committed: its pending commit was dropped.
        Superseded = "superseded",
    }
}

label! {
    /// A catalog's answer to one commit request.
    CommitOutcome {
        /// It is in the table.
        Committed = "committed",
        /// The table moved meanwhile: not committed.
        Conflict = "conflict",
        /// The answer does not tell: the ledger has to be read.
        Unknown = "unknown",
        /// Refused for good: not committed.
        Rejected = "rejected",
        /// The catalog did not look at it: busy, or we are not let in. Not committed.
        TurnedAway = "turned_away",
    }
}

label! {
    /// What admission decided about a pending commit.
    Admission {
        /// It may enter the table, once.
        Commit = "commit",
        /// It is in the table already.
        AlreadyCommitted = "already_committed",
        /// Another instance committed: it is fenced.
        Superseded = "superseded",
        /// The table is not as it must be.
        Refused = "refused",
    }
}

label! {
    /// What a rebalance of the consumer group did to this instance.
    Rebalance {
        /// It got partitions.
        Assigned = "assigned",
        /// It gave partitions back, in order.
        Revoked = "revoked",
        /// Partitions were taken from it.
        Lost = "lost",
        /// It joined again, since the group left partitions to nobody.
        Rejoined = "rejoined",
    }
}

label! {
    /// Why a partition of this instance is not read.
    Unread {
        /// Nobody leads it, or its leader does not tell where its log begins and ends.
        NoLeader = "no_leader",
        /// Its leader does not tell where its log ends, or tells of records that do not come.
        NoAnswer = "no_answer",
        /// A batch of it cannot be read, its log does not hold the ledger, or its broker refuses us.
        SetAside = "set_aside",
    }
}

label! {
    /// Why a run was followed by another one, begun anew at the ledger.
    Restart {
        /// An error of the Kafka cluster.
        Kafka = "kafka",
        /// An error of the catalog, or a commit not settled.
        Catalog = "catalog",
        /// An error of the store.
        Store = "store",
        /// The disk of the checkpoints was full, or a write to it failed.
        LocalState = "local_state",
        /// A checkpoint timed out.
        CheckpointTimeout = "checkpoint_timeout",
        /// Another instance had committed.
        Fenced = "fenced",
        /// Partitions went to another instance before their records were committed.
        Dropped = "dropped",
        /// The topic has new partitions.
        PartitionsAdded = "partitions_added",
    }
}
