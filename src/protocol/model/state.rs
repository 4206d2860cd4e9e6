//! A state of the world, small enough to keep millions of them.

use super::facts::{CommitNo, LedgerNo};
use super::lake::TableNo;

pub(super) const PARTITIONS: usize = 2;
/// Tables of a flow, at most.
pub(super) const TABLES: usize = 2;
/// Requests that are late at the same time, at most.
pub(super) const LATE: usize = 3;
pub(super) const NAMES: [&str; 2] = ["one", "two"];

/// Offsets by partition.
pub(super) type Offsets = [Option<u8>; PARTITIONS];

/// How often each kind of event may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Crashes of an instance.
    pub crashes: u8,
    /// Of these, how many lose local state.
    pub losses: u8,
    /// Of these, how many find local state restored from an older copy.
    pub restores: u8,
    /// Answers lost, requests lost, conflicts that are none, rejections.
    pub answers: u8,
    /// Requests that arrive after their sender gave up on them, or a second time.
    pub late: u8,
    /// Foreign appends.
    pub appends: u8,
    /// Foreign compactions.
    pub compactions: u8,
    /// Foreign expirations.
    pub expirations: u8,
    /// Foreign moves of the head to another snapshot.
    pub rollbacks: u8,
    /// Ledgers rewound by a person.
    pub rewinds: u8,
    /// Partitions that move to another instance.
    pub moves: u8,
}

/// What is searched: the size of the world and the faults in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    /// Tables of the flow.
    pub tables: usize,
    /// Items of the log by partition.
    pub items: [u8; PARTITIONS],
    /// Partitions that each instance reads at first, a bit for each.
    pub owns: [u8; 2],
    /// Faults.
    pub budget: Budget,
    /// Does the catalog take a snapshot whose sequence number is not the newest? None that keeps to
    /// the format does.
    pub takes_old_numbers: bool,
}

/// A request to the catalog: pinned to a head, with the ledger that it sets and the sequence number
/// of its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Request {
    pub commit: CommitNo,
    pub pin: Option<u8>,
    pub ledger: LedgerNo,
    pub number: u8,
}

/// How a pending commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum How {
    Committed,
    AlreadyCommitted,
    Superseded,
}

/// Where the run of an instance is with one table. All of it is lost in a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Not running, or between two runs.
    #[default]
    Down,
    /// Reading, with nothing between prepare and finalize.
    Running,
    /// Prepared, and to be admitted. `recovering`: an earlier run prepared it.
    Pending { commit: CommitNo, recovering: bool, retry: bool },
    /// Sent, and waiting for the answer.
    Waiting { request: Request, recovering: bool },
    /// Its fate is known from the table as it was in `view`, and not yet finalized.
    Settled { commit: CommitNo, how: How, view: TableNo, recovering: bool },
    /// Superseded in a run, which ends when the other tables came to an end.
    Fenced,
    /// Refused or rejected, its commit still pending. The process ends when the other tables came to
    /// an end.
    Failed,
}

impl Phase {
    /// Has the table a commit that is prepared and not at its end?
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Pending { .. } | Self::Waiting { .. } | Self::Settled { .. })
    }
}

/// A table's part of the checkpoint between prepare and finalize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Open {
    pub commit: CommitNo,
    pub frontier: Offsets,
}

/// The newest checkpoint that was seen to be in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Last {
    pub epoch: u8,
    pub frontier: Offsets,
    pub generation: u8,
}

/// Local state: what a crash leaves, by table. What is open is one checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Local {
    pub open: [Option<Open>; TABLES],
    pub last: [Option<Last>; TABLES],
}

/// One instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Instance {
    /// By table; `Down` of one that the flow has not.
    pub phases: [Phase; TABLES],
    /// Partitions that it believes to be its own, a bit for each.
    pub owns: u8,
    /// Counts the processes that sealed something; names the instance.
    pub incarnation: u8,
    /// Did this process seal anything?
    pub sealed: bool,
    /// The last epoch it sealed or knows of. 0 while it is down.
    pub epoch: u8,
    /// The ledger of each table as it knows it, while it runs.
    pub ledgers: [Offsets; TABLES],
    /// The generations of those ledgers.
    pub generations: [u8; TABLES],
    /// Where its next epoch begins to read, of each partition that this run reads: where the table is
    /// that has the least.
    pub at: Offsets,
    pub local: Local,
    /// An older copy of local state.
    pub copy: Option<Local>,
}

impl Instance {
    /// Not running, or between two runs.
    pub(crate) fn is_down(&self) -> bool {
        self.phases[0] == Phase::Down
    }

    /// Running, with nothing between prepare and finalize.
    pub(crate) fn is_reading(&self) -> bool {
        let others = |phase| matches!(phase, &Phase::Running | &Phase::Down);
        self.phases[0] == Phase::Running && self.phases.iter().all(others)
    }

    /// The run ends; the process may go on with another.
    pub(crate) fn end_run(&mut self) {
        self.phases = Default::default();
        self.epoch = 0;
        self.ledgers = Default::default();
        self.generations = Default::default();
        self.at = Offsets::default();
    }

    /// The process ends. One that sealed nothing cannot be told from the next.
    pub(crate) fn end_process(&mut self) {
        self.end_run();
        if self.sealed {
            self.incarnation += 1;
            self.sealed = false;
        }
    }
}

/// All of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub tables: [TableNo; TABLES],
    pub instances: [Instance; 2],
    /// Requests on their way that nobody waits for, in order.
    pub late: [Option<Request>; LATE],
    pub left: Budget,
}

impl State {
    pub(crate) fn new(tables: [TableNo; TABLES], mix: &Mix) -> Self {
        let instance = |owns| Instance { owns, ..Instance::default() };
        Self { tables, instances: mix.owns.map(instance), late: [None; LATE], left: mix.budget }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.late[LATE - 1].is_none()
    }

    /// Puts a request among the late ones, in order: which came first cannot be seen.
    pub(crate) fn put_late(&mut self, request: Request) {
        if let Some(free) = self.late.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(request);
        }
        self.sort_late();
    }

    pub(crate) fn take_late(&mut self, which: usize) -> Option<Request> {
        let taken = self.late[which].take();
        self.sort_late();
        taken
    }

    fn sort_late(&mut self) {
        self.late.sort_by_key(|slot| (slot.is_none(), *slot));
    }

    /// Drops what can have no effect any more, so that states that behave the same are the same:
    /// the late requests that `can_land` says cannot, and copies of local state that stay unused.
    pub(crate) fn canonical(&mut self, can_land: impl Fn(&Request) -> bool) {
        for slot in &mut self.late {
            *slot = slot.filter(&can_land);
        }
        self.sort_late();
        if self.left.restores == 0 || self.left.crashes == 0 {
            for instance in &mut self.instances {
                instance.copy = None;
            }
        }
    }
}

/// What the catalog does with a request that an instance waits for, and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Decides it and says so.
    Told,
    /// As `Told`, and a second copy of the request is on its way.
    ToldTwice,
    /// Decides it; the answer is lost.
    Lost,
    /// The answer is unknown; the request is on its way still.
    Late,
    /// The answer is unknown, or a conflict that was none; the request is gone.
    Gone,
    /// A no that ends the process.
    Rejected,
}

/// What a process finds of its local state after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Kept,
    Lost,
    Restored,
}

/// What a foreign engine removes from the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Expiry {
    /// All snapshots but the head.
    AllButHead,
    /// One snapshot, not the head.
    One(u8),
}

/// One step of the world. A number beside that of an instance is that of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A run starts: reads local state and tables.
    Start(usize),
    /// It reads that many items of each partition, seals and prepares.
    Seal(usize, [u8; PARTITIONS]),
    /// Reads the table, admits, sends a request if it may.
    Attempt(usize, usize),
    Answer(usize, usize, Answer),
    Finalize(usize, usize),
    Crash(usize, Memory),
    /// Local state is copied.
    Copy(usize),
    /// A late request arrives.
    Arrive(usize),
    /// A partition is given to another instance; does its old owner notice?
    Move {
        partition: usize,
        to: usize,
        noticed: bool,
    },
    /// Something happens to a table.
    Foreign(usize, Foreign),
}

/// What others do to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Append,
    Compact,
    /// Does the engine take away the parents of those whose parent is expired, as pyiceberg does?
    Expire {
        what: Expiry,
        orphans: bool,
    },
    /// The head is moved to another snapshot.
    Rollback(u8),
    /// A person rewinds the ledger to the head.
    Rewind,
}
