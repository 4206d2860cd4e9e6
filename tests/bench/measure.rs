//! What a process took, and what the machine did meanwhile.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use crate::support::icestream::RUN;
use crate::support::poll;

/// Often enough to see the peak of a process's memory, rare enough to cost nothing.
const LOOK: Duration = Duration::from_millis(10);

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Records carried.
    pub records: u64,
    /// From start to end, seconds.
    pub wall: f64,
    /// CPU of all its threads, seconds.
    pub user: f64,
    /// CPU of the kernel on its behalf, seconds.
    pub system: f64,
    /// Peak of its resident memory, bytes.
    pub memory: u64,
    /// CPU of the broker meanwhile, seconds.
    pub broker: f64,
    /// Share of all cores that nobody used meanwhile.
    pub idle: f64,
    /// Commits, where there are any.
    pub commits: Option<usize>,
    /// Data files.
    pub files: u64,
    /// Bytes in data files.
    pub file_bytes: u64,
}

impl Figures {
    /// Records a second of wall time.
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.wall
    }

    /// CPU seconds for a million records.
    pub fn cpu_per_million(&self) -> f64 {
        (self.user + self.system) / self.records as f64 * 1e6
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s, {:.0} records/s, {:.2} + {:.2} CPU s ({:.2} a million), {} MiB, {} files of {} bytes, \
             broker {:.2} CPU s, {:.0} % idle",
            self.wall,
            self.rate(),
            self.user,
            self.system,
            self.cpu_per_million(),
            self.memory >> 20,
            self.files,
            self.file_bytes,
            self.broker,
            self.idle * 100.0,
        )
    }
}

/// The least, the median and the greatest.
pub fn least_median_most(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    (values[0], middle, values[values.len() - 1])
}

/// Measures one child process. No other child may end meanwhile.
pub struct Meter {
    began: Instant,
    cpu: (f64, f64),
    around: Around,
}

impl Meter {
    /// To be called just before the process is started. `broker` is the process id of Kafka.
    pub fn start(broker: u32) -> Self {
        Self { cpu: cpu_of_children(), around: Around::start(broker), began: Instant::now() }
    }

    /// Follows the process to its end. `ended` waits for it as soon as it has ended, and then
    /// says so.
    ///
    /// # Panics
    /// If it takes longer than a run may.
    pub fn follow(self, pid: u32, mut ended: impl FnMut() -> bool) -> Figures {
        let mut memory = 0;
        poll(LOOK, "the end of the process", RUN, || {
            memory = peak_memory(pid).unwrap_or(memory).max(memory);
            ended().then_some(())
        });
        let wall = self.began.elapsed().as_secs_f64();
        let (user, system) = cpu_of_children();
        let (user, system) = (user - self.cpu.0, system - self.cpu.1);
        let (broker, idle) = self.around.end();
        Figures { wall, user, system, memory, broker, idle, ..Figures::default() }
    }
}

/// What the broker and the machine did in a span of time.
pub struct Around {
    pid: u32,
    broker: f64,
    cores: (f64, f64),
}

impl Around {
    /// From now on. `broker` is the process id of Kafka.
    pub fn start(broker: u32) -> Self {
        Self { pid: broker, broker: cpu_seconds(broker), cores: idle_and_all() }
    }

    /// Until now: CPU seconds of the broker, and the share of all cores that nobody used.
    pub fn end(self) -> (f64, f64) {
        let (idle, all) = idle_and_all();
        let share = (idle - self.cores.0) / (all - self.cores.1).max(f64::MIN_POSITIVE);
        (cpu_seconds(self.pid) - self.broker, share)
    }
}

/// User and system CPU seconds of a running process together, to a hundredth; 0 if there is none.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may have spaces in it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |n: usize| fields.split_whitespace().nth(n).and_then(|t| t.parse::<f64>().ok());
    // Linux counts them in hundredths of a second for everybody.
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

/// Ticks in which no process ran, and all ticks, of all cores since the machine started.
fn idle_and_all() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    let idle = ticks.get(3).unwrap_or(&0.0) + ticks.get(4).unwrap_or(&0.0);
    (idle, ticks.iter().sum())
}

/// The peak since the process became the program that it is: what `ru_maxrss` says would count
/// the memory of the parent that it was made from.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Has the peak of this process begin anew; what it is at then.
pub fn reset_peak_memory() -> u64 {
    fs::write("/proc/self/clear_refs", "5").expect("cannot reset the peak of memory");
    peak_memory(std::process::id()).expect("this process runs")
}

/// User and system CPU seconds of all children that have been waited for.
#[allow(unsafe_code, reason = "the standard library does not tell what a child used")]
fn cpu_of_children() -> (f64, f64) {
    // SAFETY: zeroes are a valid `rusage`, and the call writes nothing but that.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage), 0);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime), seconds(usage.ru_stime))
}
