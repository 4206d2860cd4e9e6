//! How many partitions, what is produced when, and when to kill.

use std::time::Duration;

use super::error::DemoError;
use super::readings::MAX_RECORD_BYTES;

/// Everything that looks random in the demo comes from it.
pub(super) const SEED: u64 = 20_260_101;

/// The embedded broker silently drops a partition's oldest records beyond 5 MiB. The rest of it is
/// for batch headers and keys that do not spread evenly.
const PARTITION_BYTES: u64 = 4 << 20;
/// Fewer would leave processors without work, and make each fetch small.
const LEAST_PARTITIONS: u64 = 12;
/// Half a gigabyte of log in memory.
const MOST_PARTITIONS: u64 = 128;
/// About so many checkpoints are made of a slice, so that kills meet every step of one.
const CHECKPOINTS_A_SLICE: u64 = 6;

/// What the demo is going to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub records: u64,
    pub kills: u32,
    pub partitions: i32,
}

impl Plan {
    pub(crate) fn new(records: u64, kills: u32) -> Result<Self, DemoError> {
        let in_partition = PARTITION_BYTES / MAX_RECORD_BYTES as u64;
        let partitions = records.div_ceil(in_partition).max(LEAST_PARTITIONS);
        if partitions > MOST_PARTITIONS {
            let most = in_partition * MOST_PARTITIONS;
            return Err(DemoError::TooManyRecords { asked: records, most });
        }
        if u64::from(kills) > records {
            return Err(DemoError::TooManyKills { kills, records });
        }
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        Ok(Self { records, kills, partitions })
    }

    /// Records produced before the child of this round starts; the rounds after the last kill is
    /// the last.
    pub(crate) fn slice(&self, round: u32) -> u64 {
        let slices = u128::from(self.kills) + 1;
        let until = |round: u128| u128::from(self.records) * round / slices;
        let round = u128::from(round);
        u64::try_from(until(round + 1) - until(round)).unwrap_or(u64::MAX)
    }

    /// Records after which the child makes a checkpoint.
    pub(crate) fn checkpoint_records(&self) -> u64 {
        (self.slice(0) / CHECKPOINTS_A_SLICE).max(1)
    }

    pub(crate) fn kill_points(&self) -> KillPoints {
        KillPoints(fastrand::Rng::with_seed(SEED))
    }
}

/// When to kill, one after another.
pub(super) struct KillPoints(fastrand::Rng);

impl KillPoints {
    pub(crate) fn next_point(&mut self) -> KillPoint {
        KillPoint {
            share: 0.8 * self.0.f64(),
            // Up to about the length of one checkpoint: some step of the next one is met.
            delay: Duration::from_micros(self.0.u64(..60_000)),
        }
    }
}

/// When to kill a child.
pub(super) struct KillPoint {
    /// Share of its work that is in the table.
    pub share: f64,
    /// And then so much later.
    pub delay: Duration,
}

impl KillPoint {
    /// Records in the table at which to kill a child that found `before` of `produced` there: at
    /// least one more, so that it is at work.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rough place in at most a few million records"
    )]
    pub(crate) fn records(&self, before: u64, produced: u64) -> u64 {
        let work = produced.saturating_sub(before);
        before + ((work as f64 * self.share) as u64).clamp(1, work.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_never_gets_more_than_the_broker_keeps() {
        for records in [1, 1_000, 500_000, 1_234_567, 1_900_000] {
            let plan = Plan::new(records, 0).unwrap();
            let partitions = u64::try_from(plan.partitions).unwrap();
            assert!(records * MAX_RECORD_BYTES as u64 <= partitions * PARTITION_BYTES, "{records}");
            assert!((LEAST_PARTITIONS..=MOST_PARTITIONS).contains(&partitions), "{records}");
        }
    }

    #[test]
    fn more_records_than_fit_are_refused_with_the_number_that_does() {
        let Err(DemoError::TooManyRecords { most, .. }) = Plan::new(u64::MAX, 0) else {
            panic!("accepted")
        };
        assert!(Plan::new(most, 0).is_ok());
        let message = Plan::new(most + 1, 0).unwrap_err().to_string();
        assert!(message.contains("--records"), "{message}");
    }

    #[test]
    fn more_kills_than_records_are_refused() {
        assert!(Plan::new(3, 3).is_ok());
        assert!(matches!(Plan::new(3, 4), Err(DemoError::TooManyKills { kills: 4, records: 3 })));
    }

    #[test]
    fn the_slices_are_all_records_and_nearly_equal() {
        for (records, kills) in [(500_000, 5), (7, 5), (1, 0), (1, 1), (10, 10)] {
            let plan = Plan::new(records, kills).unwrap();
            let slices: Vec<u64> = (0..=kills).map(|round| plan.slice(round)).collect();
            assert_eq!(slices.iter().sum::<u64>(), records);
            let (least, most) = (slices.iter().min().unwrap(), slices.iter().max().unwrap());
            assert!(most - least <= 1, "{slices:?}");
        }
    }

    #[test]
    fn a_kill_comes_when_some_of_the_work_is_done_and_not_all_of_it() {
        let mut points = Plan::new(1_000, 5).unwrap().kill_points();
        for _ in 0..1_000 {
            let point = points.next_point();
            assert!((101..=900).contains(&point.records(100, 1_100)), "{}", point.share);
            assert_eq!(point.records(100, 101), 101);
        }
    }
}
