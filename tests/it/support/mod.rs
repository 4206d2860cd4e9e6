//! Real servers, the binary under test, faults and the judge.
//!
//! Every helper blocks and panics with what it did and where the logs are: a test is plain
//! `#[test]` code without an async runtime. Servers named `shared()` are started once per test
//! process, on first use; give each test its own topic, table or database there ([`unique`]).

pub mod files;
pub mod flights;
pub mod foreign;
pub mod http;
pub mod icestream;
pub mod kafka;
pub mod lender;
pub mod log_file;
pub mod oracle;
pub mod parts;
pub mod postgres;
pub mod process;
pub mod producing;
pub mod proxy;
pub mod rest;
pub mod s3;
pub mod seaweedfs;
pub mod spark;
pub mod table;
pub mod tls;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// How long a real server may take for anything that it does in well under a second when idle.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls `probe` until it gives a value. The wait ends with the condition, never with a guess.
///
/// # Panics
/// When `within` is over, with `what` was waited for.
pub fn wait_for<T>(what: &str, within: Duration, probe: impl FnMut() -> Option<T>) -> T {
    poll(Duration::from_millis(20), what, within, probe)
}

/// [`wait_for`] that looks every so often.
///
/// # Panics
/// As that does.
pub fn poll<T>(
    every: Duration,
    what: &str,
    within: Duration,
    probe: impl FnMut() -> Option<T>,
) -> T {
    let value = look(every, within, probe);
    value.unwrap_or_else(|| panic!("waited {within:?} for {what}, in vain"))
}

/// What all waits are made of: `None` when `within` is over.
pub fn look<T>(
    every: Duration,
    within: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Option<T> {
    let start = Instant::now();
    loop {
        let value = probe();
        if value.is_some() || start.elapsed() >= within {
            return value;
        }
        std::thread::sleep(every);
    }
}

/// Runs a future to its end. Never from within another one.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("an async runtime")
    });
    runtime.block_on(future)
}

/// `prefix` with a suffix that no other call in this process got: a name for a topic or a table.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A new directory for one server or one run of the binary. It is kept for a look after a failure
/// and removed by the next test process that starts.
pub fn new_dir(prefix: &str) -> PathBuf {
    let dir = run_dir().join(unique(prefix));
    fs::create_dir_all(&dir).expect("cannot make a directory for the test");
    dir
}

/// The directory of this test process. Outside of the build directory, because PostgreSQL runs as
/// another user and must reach it.
fn run_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let parent = std::env::temp_dir();
        remove_leftovers(&parent);
        let dir = parent.join(format!("{RUN_DIR_PREFIX}{}", std::process::id()));
        fs::create_dir_all(&dir).expect("cannot make the directory of the test run");
        dir
    })
}

const RUN_DIR_PREFIX: &str = "icestream-it-";

/// Removes the directories of test processes that are no more.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(RUN_DIR_PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test process may be removing the same one.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// A TCP port on loopback that nobody listens on, and that no other call got. Below the range from
/// which the kernel takes the ports of outgoing connections, so that it stays free until it is used.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = fastrand::u16(15_000..32_000);
        let new = GIVEN.lock().expect("a thread panicked while it took a port").insert(port);
        if new && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 between 15000 and 32000");
}
