//! The binary under test, run as a user runs it: an env file, and a process to watch and to kill.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::kafka::Kafka;
use super::process::{Process, under};
use super::table::Lake;
use super::{PATIENCE, free_port, http, new_dir, unique, wait_for};

/// How long a run may take that is expected to end by itself.
pub const RUN: Duration = Duration::from_secs(300);

/// One instance of a pipeline as it is set up: settings and a directory of its own. Starting it
/// again is a restart of the same instance.
#[derive(Clone, Debug)]
pub struct Icestream {
    binary: PathBuf,
    dir: PathBuf,
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

impl Icestream {
    /// A new pipeline from a topic into a table, with a checkpoint every half second.
    pub fn new(kafka: &Kafka, topic: &str, lake: &Lake, table: &str) -> Self {
        let pipeline = unique("pipeline");
        let set = [
            ("KAFKA_BROKERS", kafka.brokers()),
            ("KAFKA_TOPIC", topic.to_owned()),
            ("KAFKA_GROUP_ID", pipeline),
            ("ICEBERG_TABLE", table.to_owned()),
            ("CHECKPOINT_INTERVAL_MS", "500".to_owned()),
            ("CHECKPOINT_MIN_PAUSE_MS", "0".to_owned()),
        ];
        let mut settings: BTreeMap<String, String> =
            set.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        settings.extend(lake.settings().into_iter().map(|(name, value)| (name.to_owned(), value)));
        let environment = BTreeMap::new();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_icestream"));
        Self { binary, dir: PathBuf::new(), settings, environment }.with_own_directory()
    }

    /// Another process of the same pipeline: same settings, other directory, member and port.
    #[must_use]
    pub fn member(&self) -> Self {
        self.clone().with_own_directory()
    }

    /// [`Self::member`] that reads all partitions, whatever the group gave to whom.
    #[must_use]
    pub fn another(&self) -> Self {
        self.member().set("KAFKA_ASSIGNMENT", "all")
    }

    fn with_own_directory(self) -> Self {
        let dir = new_dir("icestream");
        let checkpoints = dir.join("checkpoints").display().to_string();
        let listen = format!("127.0.0.1:{}", free_port());
        Self { dir, ..self }
            .set("CHECKPOINT_DIR", checkpoints)
            .set("KAFKA_GROUP_INSTANCE_ID", unique("member"))
            .set("HTTP_LISTEN", listen)
    }

    /// The same by another binary, such as that of an earlier version.
    #[must_use]
    pub fn binary(self, path: impl Into<PathBuf>) -> Self {
        Self { binary: path.into(), ..self }
    }

    /// The same with a setting in the env file.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// The same without a setting.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// The same with a variable of the process, not of the env file.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// The same, to abort at a named crash point: `name`, or `name:k` for the k-th time.
    #[must_use]
    pub fn crash_at(self, point: &str) -> Self {
        self.environment("ICESTREAM_CRASH_POINT", point)
    }

    /// The same with this Iceberg schema, for creating the table.
    #[must_use]
    pub fn schema(self, schema: &Value) -> Self {
        let path = self.dir.join("schema.json");
        fs::write(&path, schema.to_string()).expect("cannot write a schema");
        self.set("ICEBERG_TABLE_SCHEMA", path.display().to_string())
    }

    /// The value of a setting, as it is in the env file.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// The directory of this instance's own files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the checkpoints, as a lost disk does.
    pub fn lose_checkpoints(&self) {
        let dir = self.checkpoints();
        if let Err(error) = fs::remove_dir_all(dir) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "cannot remove {dir}: {error}");
        }
    }

    /// A copy of the checkpoints, as a backup of the disk makes it. Not while a process runs.
    pub fn copy_checkpoints(&self) -> PathBuf {
        let copy = new_dir("copy");
        copy_files(Path::new(self.checkpoints()), &copy);
        copy
    }

    /// Puts a copy of the checkpoints in the place of what is there.
    pub fn restore_checkpoints(&self, copy: &Path) {
        self.lose_checkpoints();
        copy_files(copy, Path::new(self.checkpoints()));
    }

    fn checkpoints(&self) -> &str {
        self.setting("CHECKPOINT_DIR").expect("a directory of checkpoints")
    }

    /// Starts `icestream run`.
    pub fn run(&self) -> Running {
        self.start(&["run"])
    }

    /// `icestream run --until-caught-up` to its end, which must be exit code 0.
    pub fn run_until_caught_up(&self) -> Exit {
        self.start(&["run", "--until-caught-up"]).wait(RUN).success()
    }

    /// Any command to its end, such as `["verify", "--json"]`.
    pub fn command(&self, arguments: &[&str]) -> Exit {
        self.start(arguments).wait(RUN)
    }

    /// The settings as an env file, for other programs than the binary.
    pub fn env_file(&self) -> PathBuf {
        self.write_env_file(&self.dir)
    }

    fn write_env_file(&self, dir: &Path) -> PathBuf {
        let env_file = dir.join("icestream.env");
        let lines: String =
            self.settings.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        fs::write(&env_file, lines).expect("cannot write an env file");
        env_file
    }

    /// Starts any command with the env file. The process sees none of this process's variables
    /// but `PATH` and `HOME`.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let run = self.dir.join(unique("run"));
        fs::create_dir_all(&run).expect("cannot make a directory for a run");
        let env_file = self.write_env_file(&run);

        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--env-file").arg(&env_file);
        let mut variables = vec!["-i".to_owned(), "RUST_BACKTRACE=1".to_owned()];
        for name in ["PATH", "HOME"] {
            variables.push(format!("{name}={}", std::env::var(name).unwrap_or_default()));
        }
        variables.extend(self.environment.iter().map(|(name, value)| format!("{name}={value}")));
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        let mut command = under("env", &variables, command);
        command.current_dir(&self.dir);

        let stdout = run.join("stdout");
        let process = Process::start_apart(
            &format!("icestream {}", arguments.join(" ")),
            command,
            &stdout,
            &run.join("icestream.log"),
        );
        let http = self.setting("HTTP_LISTEN").map(|listen| format!("http://{listen}"));
        Running { process, stdout, http: http.unwrap_or_default() }
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("cannot make a directory for a copy");
    for entry in fs::read_dir(from).expect("no checkpoints to copy").flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy_files(&path, &copy),
            false => drop(fs::copy(&path, &copy).expect("cannot copy a file")),
        }
    }
}

/// A process of the binary. Dropping it kills it.
pub struct Running {
    process: Process,
    stdout: PathBuf,
    http: String,
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it holds in memory now.
    ///
    /// # Panics
    /// If it has ended.
    pub fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let bytes = |field: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.map(|kib: u64| kib * 1024).unwrap_or_else(|| panic!("no {field} in: {status}"))
        };
        Memory { resident: bytes("VmRSS:"), peak: bytes("VmHWM:"), anonymous: bytes("RssAnon:") }
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Exit {
        let status = self.process.wait(within);
        self.exit(status)
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn stop(&mut self, within: Duration) -> Exit {
        self.ask_to_stop();
        self.wait(within)
    }

    /// SIGTERM, when it listens: before its first line it ends by the signal, as every program does.
    pub fn ask_to_stop(&mut self) {
        wait_for("a first line, or the end", PATIENCE, || {
            (!self.process.log().is_empty() || self.process.ended().is_some()).then_some(())
        });
        if self.process.ended().is_none() {
            self.process.signal("TERM");
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Exit {
        let status = self.process.kill();
        self.exit(status)
    }

    /// SIGSTOP: a zombie in the making.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// SIGCONT: undoes [`Running::freeze`].
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// Sends any other signal, such as `INT`.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// True until it has ended.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// What it logged until now.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log contains a text. Panics if the process ends before.
    pub fn wait_log(&mut self, text: &str, within: Duration) {
        self.process.wait_ready(&format!("log \"{text}\""), within, |process| {
            process.log().contains(text).then_some(())
        });
    }

    /// `GET` of a path of its HTTP server; none if nobody answers.
    pub fn get(&self, path: &str) -> Option<http::Reply> {
        http::get(&format!("{}{path}", self.http)).ok()
    }

    /// The metrics; none if nobody answers.
    pub fn metrics(&self) -> Option<Metrics> {
        Some(Metrics { text: self.get("/metrics")?.success().body })
    }

    /// Polls the metrics until `probe` gives a value. Panics if the process ends before.
    pub fn wait_metrics<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut(&Metrics) -> Option<T>,
    ) -> T {
        let url = format!("{}/metrics", self.http);
        self.process.wait_ready(&format!("report {what}"), within, |_| {
            let reply = http::get(&url).ok().filter(|reply| reply.status == 200)?;
            probe(&Metrics { text: reply.body })
        })
    }

    /// Polls the metrics until the sum of a counter over these labels is at least `count`.
    /// Panics if the process ends before.
    pub fn wait_count(&mut self, name: &str, labels: &[(&str, &str)], count: f64) {
        self.wait_metrics(&format!("{name} {labels:?} of {count}"), PATIENCE, |metrics| {
            metrics.value(name, labels).filter(|value| *value >= count)
        });
    }

    /// Polls `/readyz` until it is (not) ready and gives its JSON. Panics if the process ends.
    pub fn wait_ready(&mut self, ready: bool, within: Duration) -> Value {
        let url = format!("{}/readyz", self.http);
        let status = if ready { 200 } else { 503 };
        self.process.wait_ready(&format!("answer {status} to /readyz"), within, |_| {
            let reply = http::get(&url).ok().filter(|reply| reply.status == status)?;
            Some(reply.json())
        })
    }

    fn exit(&self, status: std::process::ExitStatus) -> Exit {
        Exit {
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default())
                .into_owned(),
            log: self.process.log(),
            log_end: self.process.log_end(),
        }
    }
}

/// Memory of a process as the kernel counts it, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now: what it allocated, its code and its mapped files.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
    /// The part of `resident` that is no file's.
    pub anonymous: u64,
}

/// How a run of the binary ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Exit code, if it ended by itself.
    pub code: Option<i32>,
    /// Signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub log: String,
    log_end: String,
}

impl Exit {
    /// The exit, if its code is 0.
    ///
    /// # Panics
    /// With the output otherwise.
    pub fn success(self) -> Self {
        self.with_code(0)
    }

    /// The exit, if it has this code.
    ///
    /// # Panics
    /// With the output otherwise.
    pub fn with_code(self, code: i32) -> Self {
        let Self { signal, stdout, log_end, .. } = &self;
        assert_eq!(
            self.code,
            Some(code),
            "icestream ended with another exit code (signal {signal:?})\n{stdout}\n{log_end}"
        );
        self
    }

    /// The name of this process in journals, as it logged it at its start.
    ///
    /// # Panics
    /// If it ended before that.
    pub fn instance(&self) -> String {
        let found = self.log.split_once(" instance=").and_then(|(_, rest)| rest.split_once(' '));
        found.unwrap_or_else(|| panic!("no instance in the log:\n{}", self.log_end)).0.to_owned()
    }

    /// The exit, if SIGABRT ended it: the process came to its crash point.
    ///
    /// # Panics
    /// With the output otherwise.
    pub fn aborted(self) -> Self {
        const SIGABRT: i32 = 6;
        let Self { code, log_end, .. } = &self;
        assert_eq!(self.signal, Some(SIGABRT), "no crash (exit code {code:?})\n{log_end}");
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}\n{}", self.stdout, self.log_end))
    }
}

/// A scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// As it was served.
    pub text: String,
}

impl Metrics {
    /// The sum of a metric over all series that have these labels; none if there is no such series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let values: Vec<f64> = self
            .text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| {
                let (found, rest) = series.split_once('{').unwrap_or((series, ""));
                found == name && wanted.iter().all(|label| rest.contains(label.as_str()))
            })
            .filter_map(|(_, value)| value.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}
