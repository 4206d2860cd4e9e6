//! A commit a minute to a table as icestream makes it, by a clock that is set: what it leaves in the
//! store and what a commit writes do not grow. `ICESTREAM_DAYS=365` makes a year of it.

use std::time::Instant;

use super::*;
use crate::protocol::{Admission, admit};
use crate::table::cache::FileCache;
use crate::table::{Maintenance, list};

/// Commits of a day.
const DAY: u64 = 1_440;
const MINUTE_MS: i64 = 60_000;
/// Days of which the figures are compared, of those that there are.
const DAYS: [u64; 9] = [1, 2, 3, 10, 30, 60, 120, 240, 360];
/// How long snapshots live here, so that a year of commits does not take hours: one of a hundred
/// snapshots is as flat as one of thousands.
const HOUR: (&str, &str) = ("history.expire.max-snapshot-age-ms", "3600000");

/// What the commits of one day did, and what was there at its end.
#[derive(Debug, Default)]
struct Day {
    number: u64,
    commit_seconds: f64,
    sweep_seconds: f64,
    bytes_written: u64,
    files_read: u64,
    snapshots: usize,
    manifests: usize,
    files: usize,
    bytes: u64,
    /// Of which the manifests of the head: they name each data file, so they grow with the table.
    naming: u64,
}

impl Day {
    /// What is in the directory of the table's metadata, and in the table.
    async fn look(&mut self, bench: &Bench, loaded: &LoadedTable) {
        let entries = std::fs::read_dir(bench.table_dir().join("metadata")).unwrap();
        let sizes: Vec<u64> = entries.map(|e| e.unwrap().metadata().unwrap().len()).collect();
        (self.files, self.bytes) = (sizes.len(), sizes.iter().sum());
        self.snapshots = loaded.metadata.snapshots().count();
        let manifests = list::of_head(loaded, &FileCache::new(0)).await.unwrap();
        self.manifests = manifests.len();
        self.naming = manifests.iter().map(|manifest| manifest.manifest_length as u64).sum();
    }

    fn line(&self) -> String {
        let each = |of: f64| of / DAY as f64;
        format!(
            "| {} | {:.2} | {:.2} | {:.0} | {:.1} | {} | {} | {} | {:.1} | {:.1} |",
            self.number,
            each(self.commit_seconds) * 1000.0,
            each(self.sweep_seconds) * 1000.0,
            each(self.bytes_written as f64) / 1024.0,
            each(self.files_read as f64),
            self.snapshots,
            self.manifests,
            self.files,
            self.bytes as f64 / f64::from(1 << 20),
            self.naming as f64 / f64::from(1 << 20),
        )
    }
}

/// A process that commits to the table.
struct Writer {
    bench: Bench,
    loaded: LoadedTable,
    maintenance: Arc<Maintenance>,
    template: PendingFile,
    now_ms: i64,
    commits: i64,
    /// Of which each commit moves all.
    partitions: i32,
}

impl Writer {
    /// To a table that is made with what the user `wants`.
    async fn new(wants: &[(&str, &str)]) -> Self {
        let bench = Bench::new().await;
        let wants = wants.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let properties = of_made_table(&wants.collect());
        let properties: Vec<_> =
            properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let loaded = bench.create_with("", &properties).await;
        let maintenance = Maintenance::new(8 << 20, None);
        let loaded = found(&bench.catalog, loaded, &maintenance).await.unwrap();
        let template = write_file(&loaded, &[(1, "x")], &[]).await;
        let now_ms = loaded.metadata.last_updated_ms();
        Self { bench, loaded, maintenance, template, now_ms, commits: 0, partitions: 1 }
    }

    /// One commit as the committer makes it, of a file that nobody will read.
    async fn commit(&mut self, day: &mut Day) {
        let number = format!("-{:07}.parquet", self.commits);
        let path = self.template.path.replace(".parquet", &number);
        let data_file = self.template.data_file.replace(&self.template.path, &path);
        let file = PendingFile { path, data_file, ..self.template.clone() };
        let pending = pending(&self.loaded, self.commits, self.commits + 1, vec![file]);
        let pending = Prepared::on_disk(self.of_all_partitions(pending));
        self.now_ms += MINUTE_MS;
        self.commits += 1;
        let began = Instant::now();
        let (loaded, maintenance) = (&self.loaded, &self.maintenance);
        let view = super::super::view(loaded, PIPELINE, &maintenance.understood).unwrap();
        let Admission::Commit(permit) = admit(&pending, &view) else { panic!("not admitted") };
        let (catalog, now_ms) = (&self.bench.catalog, self.now_ms);
        let appended =
            super::super::commit::append_at(catalog, loaded, permit, now_ms, maintenance);
        let appended = appended.await.map_err(NotSent::into_error).unwrap();
        self.loaded = committed(Ok(appended.outcome));
        day.commit_seconds += began.elapsed().as_secs_f64();
        let began = Instant::now();
        if let Some(freed) = appended.freed {
            freed.sweep().await;
        }
        day.sweep_seconds += began.elapsed().as_secs_f64();
    }

    fn of_all_partitions(&self, pending: PendingCommit) -> PendingCommit {
        let all = || (0..self.partitions).map(|number| TopicPartition::new("readings", number));
        // As long as offsets are after a while.
        let offset = |commits: i64| 1_000_000_000 + 1_000 * commits;
        let range = OffsetRange { start: offset(self.commits), end: offset(self.commits + 1) };
        let from = match self.commits {
            0 => Frontier::default(),
            commits => all().map(|partition| (partition, offset(commits))).collect(),
        };
        PendingCommit {
            from,
            ranges: all().map(|partition| (partition, range)).collect(),
            ..pending
        }
    }

    async fn day(&mut self, number: u64) -> Day {
        let before = self.maintenance.totals();
        let mut day = Day { number, ..Day::default() };
        for _ in 0..DAY {
            self.commit(&mut day).await;
        }
        let after = self.maintenance.totals();
        day.bytes_written = after.bytes_written - before.bytes_written;
        day.files_read = after.files_read - before.files_read;
        day.look(&self.bench, &self.loaded).await;
        day
    }
}

#[tokio::test]
async fn a_table_that_is_made_is_as_small_after_many_commits_as_after_few() {
    let number_of_days = std::env::var("ICESTREAM_DAYS").map_or(3, |n| n.parse().unwrap());
    let mut writer = Writer::new(&[HOUR]).await;
    println!(
        "| day | ms a commit | ms of sweeps a commit | KiB of metadata a commit | reads a commit | \
         snapshots | manifests | files of metadata | MiB of them | MiB of the head's manifests |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    );
    let mut days = Vec::new();
    for number in 1..=number_of_days {
        let day = writer.day(number).await;
        if DAYS.contains(&number) {
            println!("{}", day.line());
            days.push(day);
        }
    }
    let [first, .., last] = days.as_slice() else { panic!("fewer than two days") };
    let grown = |of: &dyn Fn(&Day) -> u64| of(last) as f64 / of(first) as f64;
    for (what, grown) in [
        ("bytes of metadata a commit", grown(&|day| day.bytes_written)),
        ("snapshots", grown(&|day| day.snapshots as u64)),
        ("files of metadata", grown(&|day| day.files as u64)),
    ] {
        assert!(grown < 1.5, "{what}: {grown} times as many\n{first:?}\n{last:?}");
    }
    // What does not name data files; and a manifest that was merged into a larger one stays until the
    // snapshots that have it are gone.
    let beside = |day: &Day| day.bytes - day.naming;
    assert!(beside(last) < beside(first) * 3 / 2 + (16 << 20), "{first:?}\n{last:?}");
    assert_eq!(last.files_read, 0, "{last:?}");
    // All files are there, each once, in as few manifests as their number asks for.
    let commits = number_of_days * DAY;
    let mut files = 0;
    for manifest in list::of_head(&writer.loaded, &FileCache::new(0)).await.unwrap() {
        files += manifest.added_files_count.unwrap() + manifest.existing_files_count.unwrap();
    }
    assert_eq!(u64::from(files), commits);
    assert_eq!(writer.maintenance.totals().failed_removals, 0);
    assert!(last.manifests as u64 <= 20 * 4 + commits / 5_000, "{last:?}");
}

#[tokio::test]
async fn what_the_snapshots_of_a_table_that_is_made_take_of_its_metadata_is_bounded() {
    println!(
        "| partitions | snapshots, least and most | MiB of metadata a commit, most | ms a commit |"
    );
    // Room for sixty snapshots, and for fewer than are kept in any case.
    for (partitions, commits, most_snapshots) in [(1_000, 150, 90), (10_000, 60, 25)] {
        let mut writer = Writer::new(&[]).await;
        writer.partitions = partitions;
        let (mut day, mut most, mut snapshots) = (Day::default(), 0, Vec::new());
        for _ in 0..commits {
            // Of the last commit only.
            day = Day::default();
            writer.commit(&mut day).await;
            let size = TableSize::of(&writer.loaded.metadata);
            let path = writer.loaded.metadata_location.trim_start_matches("file://").to_owned();
            let written = std::fs::metadata(path).unwrap().len();
            let off = size.metadata_bytes.abs_diff(written) as f64 / written as f64;
            assert!(off < 0.1, "{size:?} are {written} bytes");
            most = most.max(written);
            snapshots.push(size.snapshots);
        }
        assert!(snapshots.windows(2).any(|pair| pair[1] < pair[0]), "{snapshots:?}");
        let settled = &snapshots[snapshots.len() / 2..];
        let (least, last) = (settled.iter().min().unwrap(), settled.iter().max().unwrap());
        assert!(*least >= 20 && *last <= most_snapshots, "{snapshots:?}");
        let mib = most as f64 / f64::from(1 << 20);
        let ms = day.commit_seconds * 1000.0;
        println!("| {partitions} | {least} to {last} | {mib:.1} | {ms:.1} |");
    }
}
