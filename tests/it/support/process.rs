//! Child processes that never outlive the test process and always leave a log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::{look, wait_for};

/// A child process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its standard output and error in `log` (appended). If the test
    /// process ends in any way, SIGKILL included, the kernel kills the child.
    pub fn start(name: &str, command: Command, log: &Path) -> Self {
        Self::start_apart(name, command, log, log)
    }

    /// [`Process::start`] with the standard output in a file of its own.
    pub fn start_apart(name: &str, command: Command, stdout: &Path, log: &Path) -> Self {
        let mut command = under("setpriv", &["--pdeathsig", "KILL", "--"], command);
        command.stdin(Stdio::null()).stdout(appended(stdout)).stderr(appended(log));
        let child = spawn(command).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.into(), child, log: log.into() }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process wrote until now.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Where [`Process::log`] comes from.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Waits until `probe` gives a value.
    ///
    /// # Panics
    /// If the process ends first, or `within` is over; both with the end of its log.
    pub fn wait_ready<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        wait_for(&format!("{} to {what}; log: {}", self.name, self.log.display()), within, || {
            if let Some(status) = self.ended() {
                panic!(
                    "{} ended ({status}) before it could {what}:\n{}",
                    self.name,
                    self.log_end()
                );
            }
            probe(self)
        })
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("cannot ask for the state of a child")
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// When `within` is over, with the end of the log.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let ended = look(Duration::from_millis(10), within, || self.ended());
        ended.unwrap_or_else(|| {
            panic!("{} still runs after {within:?}:\n{}", self.name, self.log_end())
        })
    }

    /// SIGKILL, and waits until it is gone. Nothing happens if it has ended.
    pub fn kill(&mut self) -> ExitStatus {
        // Fails only if the process has ended, which is what is wanted.
        drop(self.child.kill());
        self.child.wait().expect("cannot wait for a child")
    }

    /// Sends a signal by its name, such as `TERM`, `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let script = format!("kill -{signal} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &script]).status().expect("cannot run sh");
        assert!(sent.success(), "cannot send SIG{signal} to {} ({})", self.name, self.pid());
    }

    /// The last lines of the log and where all of it is.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("{end}\n(whole log: {})", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end and gives its standard output.
///
/// # Panics
/// If it fails, with its output.
pub fn output(what: &str, mut command: Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed ({}):\n{text}\n{error}", output.status);
    text
}

/// `wrapper args... command`, for programs that change something and then become the command.
pub fn under(wrapper: &str, args: &[&str], command: Command) -> Command {
    let mut outer = Command::new(wrapper);
    outer.args(args).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

fn appended(path: &Path) -> File {
    let file = File::options().create(true).append(true).open(path);
    file.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// The kernel's "kill the child when its parent dies" means the parent *thread*, and a test's
/// thread ends with the test. So one thread that never ends starts all children.
fn spawn(command: Command) -> std::io::Result<Child> {
    static ORDERS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in received {
                // The one who asked may have panicked.
                drop(reply.send(command.spawn()));
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    orders
        .lock()
        .expect("a thread panicked while it started a process")
        .send((command, reply))
        .expect("the thread that starts processes is gone");
    answer.recv().expect("the thread that starts processes is gone")
}
