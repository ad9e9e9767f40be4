//! A real browser: Debian's Chromium without a window, driven by playwright-core.

use std::process::Stdio;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{LeftOut, REQUIRE, install, required, scratch, shared};

const DRIVER: &str = include_str!("browser.js");
/// How long one piece of code may run, on a machine that compiles beside the test.
const WITHIN: Duration = Duration::from_secs(180);

/// The colours that a user prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// Dark text on a light ground.
    Light,
    /// Light text on a dark ground.
    Dark,
}

/// A browser with one page. It ends when it is dropped.
#[derive(Debug)]
pub struct Browser {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _driver: Child,
}

impl Browser {
    /// Starts the browser; Chromium and its driver are installed first where they are not there yet.
    ///
    /// # Errors
    ///
    /// [`LeftOut`] when no browser can be had here.
    ///
    /// # Panics
    ///
    /// Instead of that error, when `KCL_TEST_REQUIRE_EMULATORS` is 1; and when the browser does not start.
    ///
    /// # Cancel safety
    ///
    /// The browser ends.
    pub async fn start(colours: Colours) -> Result<Self, LeftOut> {
        let root = shared::root();
        let installed = shared::Lock::acquire(&root)
            .map_err(|error| error.to_string())
            .and_then(|_lock| Ok((install::chromium()?, install::playwright(&root)?)));
        let (chromium, playwright) = installed.map_err(|reason| {
            let left_out = LeftOut {
                lack: "browser to test in. To have it:".to_owned(),
                reasons: vec![reason],
            };
            assert!(!required(), "{REQUIRE}=1, but {left_out}");
            left_out
        })?;
        let scheme = match colours {
            Colours::Light => "light",
            Colours::Dark => "dark",
        };
        std::fs::create_dir_all(scratch()).expect("the target folder is writable");
        let mut driver = Command::new("node")
            .args(["-e", DRIVER, "--"])
            .args([playwright.as_os_str(), chromium.as_os_str()])
            .arg(scheme)
            .current_dir(scratch())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let input = driver.stdin.take().expect("it is piped");
        let output = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
        let mut browser = Self {
            input,
            output,
            _driver: driver,
        };
        let version = browser.answer("the start").await;
        super::servers::say(&format!("Chromium {}", version.as_str().unwrap_or_default()));
        Ok(browser)
    }

    /// Runs this code in the driver, as the body of an asynchronous function of `page`, of `given`, and of `complaints`: everything that the
    /// console of the browser showed. Returns its value.
    ///
    /// # Panics
    ///
    /// When the code throws, or does not end within three minutes.
    ///
    /// # Cancel safety
    ///
    /// The browser cannot be used after a dropped future: an answer is on its way.
    pub async fn run(&mut self, code: &str, given: &Value) -> Value {
        let line = json!({ "code": code, "given": given }).to_string() + "\n";
        let written = self.input.write_all(line.as_bytes()).await;
        written.expect("the driver reads");
        self.answer(code).await
    }

    async fn answer(&mut self, to: &str) -> Value {
        let line = TokioClock::new().timeout(WITHIN, self.output.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no answer of the browser within {WITHIN:?} to {to}"));
        let line = line.expect("the driver writes text");
        let line = line.unwrap_or_else(|| panic!("the driver ended before it answered to {to}"));
        let mut answer: Value = serde_json::from_str(&line).expect("an answer is JSON");
        assert!(answer["error"].is_null(), "{to}: {}", answer["error"]);
        answer["value"].take()
    }
}
