//! The program that measures, once more, as a process of its own: what it costs is then its own, too.

use std::process::Stdio;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

/// A part of this program in a process of its own. It reports in lines of JSON.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program with these arguments. The process is killed when this is dropped.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let mut process = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program starts once more");
        let stdout = process.stdout.take().expect("its output is piped");
        Self {
            process,
            lines: BufReader::new(stdout).lines(),
        }
    }

    /// Its id, while it runs.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn id(&self) -> u32 {
        self.process.id().expect("the process runs")
    }

    /// Returns the next report.
    ///
    /// # Panics
    ///
    /// When it ends or takes longer than this without a report.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no report.
    pub async fn tells<T: DeserializeOwned>(&mut self, within: Duration) -> T {
        let line = TokioClock::new().timeout(within, self.lines.next_line()).await;
        let line = line
            .expect("a process that measures is done in time")
            .expect("its output is text")
            .expect("it does not end before it has told what it measured");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Cancel safety
    ///
    /// It is killed nevertheless.
    pub async fn end(mut self) {
        // It may have ended by itself.
        let _ = self.process.kill().await;
    }
}

/// Reports to the process that started this one.
///
/// # Panics
///
/// When that is gone.
pub fn tell(what: &impl Serialize) {
    println!("{}", serde_json::to_string(what).expect("it can be told"));
}

/// Returns when the process that started this one is gone. It takes a thread to wait.
pub async fn until_alone() {
    // Nobody writes to it: it ends with the process that holds its other end.
    let _ = tokio::io::stdin().read(&mut [0]).await;
}
