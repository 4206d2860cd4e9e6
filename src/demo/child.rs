//! The child: `icestream run` on the demo's env file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::error::DemoError;
use super::workspace::Workspace;
use crate::config::SETTINGS;

/// Most bytes of the log that are shown when a child fails.
const TAIL_BYTES: u64 = 4 << 10;
/// Most lines of them.
const TAIL_LINES: usize = 15;
const SIGKILL: i32 = 9;

/// A child that is killed with this value, if it still lives.
pub(super) struct Child {
    process: std::process::Child,
    log: PathBuf,
    /// Where its own part of the log begins.
    log_start: u64,
}

impl Child {
    pub(crate) fn start(executable: &Path, workspace: &Workspace) -> Result<Self, DemoError> {
        let log = workspace.log();
        let file = |what| {
            let path = log.clone();
            move |source| DemoError::File { what, path, source }
        };
        let out = OpenOptions::new().create(true).append(true).open(&log).map_err(file("open"))?;
        let log_start = out.metadata().map_err(file("open"))?.len();
        let also_out = out.try_clone().map_err(file("open"))?;
        let mut command = Command::new(executable);
        command
            .arg("run")
            .arg("--env-file")
            .arg(workspace.env_file())
            .arg("--until-caught-up")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(also_out)
            // Ctrl-C reaches the parent alone, which then ends the child.
            .process_group(0);
        // The environment wins over the env file, and the user's settings are not the demo's.
        for setting in SETTINGS {
            command.env_remove(setting.name);
            if let Some(alias) = setting.alias {
                command.env_remove(alias);
            }
        }
        let process = command.spawn().map_err(|source| DemoError::File {
            what: "run",
            path: executable.to_owned(),
            source,
        })?;
        Ok(Self { process, log, log_start })
    }

    /// How it ended, if it did. Does not wait.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, DemoError> {
        self.process.try_wait().map_err(DemoError::Runtime)
    }

    /// Kills it with SIGKILL. How it ended, if it was faster.
    pub(crate) fn kill(&mut self) -> Result<Option<ExitStatus>, DemoError> {
        self.process.kill().map_err(DemoError::Runtime)?;
        let status = self.process.wait().map_err(DemoError::Runtime)?;
        Ok((status.signal() != Some(SIGKILL)).then_some(status))
    }

    /// The error of a child that ended by itself and not well.
    pub(crate) fn failed(&self, status: ExitStatus) -> DemoError {
        DemoError::Child { status, log: self.log.clone(), tail: self.tail() }
    }

    /// The error of a child that does nothing.
    pub(crate) fn stuck(&self, after: Duration) -> DemoError {
        DemoError::Stuck { after, log: self.log.clone(), tail: self.tail() }
    }

    fn tail(&self) -> String {
        match tail(&self.log, self.log_start) {
            Ok(text) if text.is_empty() => String::from("(it wrote nothing)"),
            Ok(text) => text,
            Err(error) => format!("(its log cannot be read: {error})"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error says that it has ended already; waiting for it then costs nothing.
        if self.process.kill().is_ok() && self.process.wait().is_err() {
            tracing::debug!("the child was waited for already");
        }
    }
}

/// The last lines of a log after `start`.
fn tail(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Child) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "an earlier child\n").unwrap();
        let out = OpenOptions::new().append(true).open(&log).unwrap();
        let log_start = out.metadata().unwrap().len();
        let process = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(out)
            .spawn()
            .unwrap();
        (dir, Child { process, log, log_start })
    }

    #[test]
    fn the_end_of_the_log_is_that_of_this_child_alone() {
        let (_dir, mut child) = shell("for i in $(seq 1000); do echo line $i; done; exit 3");
        let status = child.process.wait().unwrap();
        let message = child.failed(status).to_string();
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.ends_with("line 999\nline 1000"), "{message}");
        assert!(!message.contains("line 985\n"), "{message}");

        let (_dir, mut child) = shell("exit 4");
        let status = child.process.wait().unwrap();
        assert!(child.failed(status).to_string().ends_with("(it wrote nothing)"));
    }

    #[test]
    fn a_kill_tells_apart_a_child_that_had_ended_already() {
        let (_dir, mut child) = shell("read -r never");
        assert!(child.kill().unwrap().is_none());

        let (_dir, mut child) = shell("exit 5");
        child.process.wait().unwrap();
        assert_eq!(child.kill().unwrap().and_then(|status| status.code()), Some(5));
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let (_dir, mut child) = shell("read -r never");
        let process = child.process.id();
        assert!(child.ended().unwrap().is_none());
        drop(child);
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }
}
