//! Producer and workers as processes of their own: built, started, killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::log::{Entry, Put, producer_log, worker_log};
use crate::testbed::Testbed;
use crate::wait::eventually;

/// An executable example, built now: a test must not run one that an earlier build left behind.
///
/// # Panics
///
/// When it does not compile.
pub fn build_example(name: &str, release: bool) -> PathBuf {
    build(
        &["--package", "kcl-examples-aws", "--example", name],
        name,
        release,
    )
}

/// A program of this workspace, built now: the target that the arguments of `cargo build` choose.
///
/// # Panics
///
/// When it does not compile.
pub fn build(target: &[&str], name: &str, release: bool) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked"])
        .args(target)
        .args(release.then_some("--release"))
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{name} does not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = artifacts.find_map(|artifact| {
        (artifact["target"]["name"] == name)
            .then(|| artifact["executable"].as_str().map(PathBuf::from))
            .flatten()
    });
    executable.unwrap_or_else(|| panic!("cargo did not say where {name} is"))
}

/// A folder for the logs of one scenario. It stays when the scenario fails.
#[derive(Debug)]
pub struct Scene {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    hidden: Vec<&'static str>,
}

impl Scene {
    /// A new folder inside the target folder.
    pub fn new(testbed: &Testbed, name: &str) -> Self {
        let folder = testbed.scratch().join(testbed.unique(name));
        fs::create_dir_all(&folder).expect("the target folder is writable");
        Self {
            folder,
            environment: testbed.environment(),
            hidden: Vec::new(),
        }
    }

    /// Everything that is started from now on has this variable in its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Nothing that is started from now on has these variables in its environment.
    #[must_use]
    pub fn without(mut self, names: &'static [&'static str]) -> Self {
        self.hidden.extend(names);
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program that logs into a file of this name; what it prints goes to another beside it.
    pub fn start(&self, program: &Path, name: &str, arguments: &[&str]) -> Process {
        self.start_in(program, name, arguments, &[])
    }

    /// The same with variables of its own in its environment.
    pub fn start_in(
        &self,
        program: &Path,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        let log = self.folder.join(format!("{name}.jsonl"));
        let output = self.folder.join(format!("{name}.out"));
        let printed = File::create(&output).expect("the folder is writable");
        let mut command = Command::new(program);
        command.envs(self.environment.iter().cloned());
        for name in &self.hidden {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        let child = command
            .args(arguments)
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(printed.try_clone().expect("a file"))
            .stderr(printed)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Process {
            name: name.to_owned(),
            child,
            log,
            output,
        }
    }

    /// Removes the folder: nobody needs the logs of a success.
    pub fn remove(self) {
        fs::remove_dir_all(&self.folder).expect("the folder is ours");
    }
}

/// A process of ours. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    output: PathBuf,
}

impl Process {
    /// Its name: a worker's id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the log of a worker until now.
    pub fn entries(&self) -> Vec<Entry> {
        worker_log(&self.text()).unwrap_or_else(|problem| panic!("{}: {problem}", self.log.display()))
    }

    /// Returns the log of a producer until now.
    pub fn puts(&self) -> Vec<Put> {
        producer_log(&self.text()).unwrap_or_else(|problem| panic!("{}: {problem}", self.log.display()))
    }

    /// Ends it without warning, as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    /// Asks it to end, as an orchestrator does: SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Lets it stand still, as a host does that is suspended: SIGSTOP.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on: SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.id().to_string()])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{} could not be signalled",
            self.name
        );
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let (name, child) = (&self.name, &mut self.child);
        eventually(limit, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("{name} still runs")),
            Err(error) => Err(format!("{name}: {error}")),
        })
        .await
    }

    /// Whether it runs, or else the end of what it printed.
    ///
    /// # Errors
    ///
    /// How it ended and what it printed last.
    pub fn check_alive(&mut self) -> Result<(), String> {
        self.status().map_or(Ok(()), |status| {
            Err(format!("{} ended ({status}):{}", self.name, self.printed()))
        })
    }

    /// The end of what it printed.
    pub fn printed(&self) -> String {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..]
            .iter()
            .map(|line| format!("\n    {line}"))
            .collect()
    }

    /// Returns the text of its log until now. The file is made by the process when it gets that far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
