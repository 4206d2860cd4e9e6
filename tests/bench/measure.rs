//! What a child process took.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// Often enough to see the peak of a process's memory, rare enough to cost nothing.
const LOOK: Duration = Duration::from_millis(10);

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Records carried.
    pub records: u64,
    /// From start to end of the process, seconds.
    pub wall: f64,
    /// CPU of all its threads, seconds.
    pub user: f64,
    /// CPU of the kernel on its behalf, seconds.
    pub system: f64,
    /// Peak of its resident memory, bytes.
    pub memory: u64,
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
            "{:.2} s, {:.0} records/s, {:.2} + {:.2} CPU s, {} MiB, {} files of {} bytes",
            self.wall,
            self.rate(),
            self.user,
            self.system,
            self.memory >> 20,
            self.files,
            self.file_bytes,
        )
    }
}

/// Measures one child process. No other child may end meanwhile.
pub struct Meter {
    began: Instant,
    cpu: (f64, f64),
}

impl Meter {
    /// To be called just before the process is started.
    pub fn start() -> Self {
        Self { cpu: cpu_of_children(), began: Instant::now() }
    }

    /// Follows the process to its end. `ended` waits for it as soon as it has ended, and then
    /// says so.
    pub fn follow(self, pid: u32, mut ended: impl FnMut() -> bool) -> Figures {
        let mut memory = 0;
        while !ended() {
            memory = peak_memory(pid).unwrap_or(memory).max(memory);
            std::thread::sleep(LOOK);
        }
        let wall = self.began.elapsed().as_secs_f64();
        let (user, system) = cpu_of_children();
        let (user, system) = (user - self.cpu.0, system - self.cpu.1);
        Figures { wall, user, system, memory, ..Figures::default() }
    }
}

/// The peak since the process became the program that it is: what `ru_maxrss` says would count
/// the memory of the parent that it was made from.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
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
