//! The demo: an embedded broker, the real `icestream run` as a child, and kills on the way.
//!
//! The parent produces readings, starts the child, kills it with SIGKILL while it works, starts it
//! again, and at the end reads the table back and compares it with what was produced. Nothing of
//! the child is known here but its exit code, its log and its table.

mod child;
mod error;
mod plan;
mod progress;
mod readings;
mod report;
mod signals;
mod table;
mod tally;
mod topic;
mod workspace;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use error::DemoError;
use tokio::runtime::Runtime;

use crate::cli::DemoArgs;
use child::Child;
use plan::{KillPoint, Plan};
use progress::{Progress, grouped};
use readings::Readings;
use report::Report;
use signals::Stop;
use table::Table;
use topic::Topic;
use workspace::Workspace;

/// How often the child and the ledger are looked at.
const TICK: Duration = Duration::from_millis(5);
/// A child that moves nothing for this long is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo and prints its result. Blocks, and must not be called from within a tokio runtime.
///
/// # Errors
/// Whatever keeps the demo from its end; [`DemoError::Wrong`] if the table does not hold every
/// record once.
pub(crate) fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let plan = Plan::new(args.records, args.kills)?;
    let workspace = Workspace::new(args.keep.as_deref(), &plan)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(DemoError::Runtime)?;
    let stop = Stop::on_signals(&runtime)?;
    let ended = play(&plan, &workspace, &runtime, &stop);
    match &ended {
        Err(error) if error.leaves_evidence() => {
            workspace.leave();
            ended
        }
        _ => ended.and(workspace.close()),
    }
}

fn play(
    plan: &Plan,
    workspace: &Workspace,
    runtime: &Runtime,
    stop: &Stop,
) -> Result<(), DemoError> {
    let began = Instant::now();
    let topic = Topic::start(plan.partitions)?;
    workspace.write(&topic.brokers())?;
    let mut demo = Demo {
        executable: std::env::current_exe().map_err(DemoError::Executable)?,
        workspace,
        topic,
        table: Table::open(runtime, workspace)?,
        stop,
        progress: Progress::new(plan.records, plan.kills),
        readings: Readings::new(plan::SEED),
        produced: 0,
        kills: 0,
    };
    demo.play(plan)?;
    let report = demo.report(began)?;
    report.print(workspace.is_kept())?;
    report.verdict(workspace)
}

/// A demo under way.
struct Demo<'a> {
    executable: PathBuf,
    workspace: &'a Workspace,
    topic: Topic,
    table: Table<'a>,
    stop: &'a Stop,
    progress: Progress,
    readings: Readings,
    /// Records in the topic.
    produced: u64,
    /// Children killed while they worked.
    kills: u32,
}

/// How a child's time ended.
enum Ended {
    Killed,
    CaughtUp,
}

impl Demo<'_> {
    /// One slice of the records for each kill and one for the end: each is partly read when the
    /// kill comes.
    fn play(&mut self, plan: &Plan) -> Result<(), DemoError> {
        let mut points = plan.kill_points();
        for round in 0..plan.kills {
            self.produce(plan.slice(round))?;
            match self.child(Some(points.next_point()))? {
                Ended::Killed => {
                    self.kills += 1;
                    let rows = grouped(self.table.in_ledger()?);
                    self.progress.note(&format!("killed with SIGKILL at {rows} in the table"));
                }
                Ended::CaughtUp => {
                    self.progress
                        .note("the child had caught up before the kill: no kill this time");
                }
            }
        }
        self.produce(plan.slice(plan.kills))?;
        self.child(None)?;
        self.progress.note("caught up; reading the table back");
        Ok(())
    }

    fn produce(&mut self, count: u64) -> Result<(), DemoError> {
        let readings = self.readings.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX));
        self.topic.produce(readings, self.stop)?;
        self.produced += count;
        self.progress.produced(self.produced);
        Ok(())
    }

    /// Runs a child to its end, or to the kill.
    fn child(&mut self, kill: Option<KillPoint>) -> Result<Ended, DemoError> {
        let before = self.table.in_ledger()?;
        let kill_at = kill.map(|point| (point.records(before, self.produced), point.delay));
        let mut child = Child::start(&self.executable, self.workspace)?;
        let (mut seen, mut moved) = (before, Instant::now());
        loop {
            self.stop.check()?;
            if let Some(status) = child.ended()? {
                return match status.success() {
                    true => Ok(Ended::CaughtUp),
                    false => Err(child.failed(status)),
                };
            }
            let in_ledger = self.table.in_ledger()?;
            self.progress.moving(in_ledger, self.kills);
            if in_ledger != seen {
                (seen, moved) = (in_ledger, Instant::now());
            }
            if let Some((records, delay)) = kill_at
                && in_ledger >= records
            {
                std::thread::sleep(delay);
                return match child.kill()? {
                    Some(status) if !status.success() => Err(child.failed(status)),
                    Some(_) => Ok(Ended::CaughtUp),
                    None => Ok(Ended::Killed),
                };
            }
            if moved.elapsed() > PATIENCE {
                return Err(child.stuck(PATIENCE));
            }
            std::thread::sleep(TICK);
        }
    }

    /// Reads the table back and compares it with the topic.
    fn report(&mut self, began: Instant) -> Result<Report, DemoError> {
        let ends = self.topic.ends()?;
        let (tally, location) = self.table.read_back(&ends, self.stop)?;
        self.progress.clear();
        Ok(Report {
            produced: self.produced,
            kills: self.kills,
            seconds: began.elapsed().as_secs_f64(),
            tally,
            location,
        })
    }
}
