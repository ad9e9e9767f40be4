//! The clients: what they are installed from, and how each is started.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::testbed::{Testbed, foreign_node, foreign_python};

const SCRIPTS: &[(&str, &str)] = &[
    ("note.py", include_str!("note.py")),
    ("boto3_polling.py", include_str!("boto3_polling.py")),
    ("boto3_fan_out.py", include_str!("boto3_fan_out.py")),
    ("aws_cli.py", include_str!("aws_cli.py")),
    ("async_kinesis.py", include_str!("async_kinesis.py")),
    ("kcl_rs.py", include_str!("kcl_rs.py")),
    ("javascript_fan_out.js", include_str!("javascript_fan_out.js")),
    ("lifion.js", include_str!("lifion.js")),
];

/// A client that is not ours, and how it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// boto3, by polling.
    Boto3Polling,
    /// boto3, by enhanced fan-out.
    Boto3FanOut,
    /// The AWS CLI, by polling.
    AwsCli,
    /// The JavaScript SDK, by enhanced fan-out.
    JavaScriptFanOut,
    /// async-kinesis, by polling.
    AsyncKinesis,
    /// lifion-kinesis, by polling.
    LifionPolling,
    /// lifion-kinesis, by enhanced fan-out.
    LifionFanOut,
    /// kcl-rs, by polling.
    KclRsPolling,
    /// kcl-rs, by enhanced fan-out.
    KclRsFanOut,
}

impl Client {
    /// All of them, the quickest first.
    pub const ALL: [Self; 9] = [
        Self::Boto3Polling,
        Self::Boto3FanOut,
        Self::JavaScriptFanOut,
        Self::AwsCli,
        Self::AsyncKinesis,
        Self::LifionPolling,
        Self::LifionFanOut,
        Self::KclRsPolling,
        Self::KclRsFanOut,
    ];

    /// The script and its arguments after the name of the stream.
    fn script(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Boto3Polling => ("boto3_polling.py", &[]),
            Self::Boto3FanOut => ("boto3_fan_out.py", &[]),
            Self::AwsCli => ("aws_cli.py", &[]),
            Self::JavaScriptFanOut => ("javascript_fan_out.js", &[]),
            Self::AsyncKinesis => ("async_kinesis.py", &[]),
            Self::LifionPolling => ("lifion.js", &["polling"]),
            Self::LifionFanOut => ("lifion.js", &["fan-out"]),
            Self::KclRsPolling => ("kcl_rs.py", &["polling"]),
            Self::KclRsFanOut => ("kcl_rs.py", &["fan-out"]),
        }
    }

    /// Whether it says that a shard ended.
    pub(super) fn notes_ends(self) -> bool {
        matches!(
            self,
            Self::Boto3Polling
                | Self::Boto3FanOut
                | Self::AwsCli
                | Self::JavaScriptFanOut
                | Self::KclRsPolling
                | Self::KclRsFanOut
        )
    }

    /// Whether it keeps its state in DynamoDB.
    pub(super) fn needs_dynamo(self) -> bool {
        matches!(
            self,
            Self::LifionPolling | Self::LifionFanOut | Self::KclRsPolling | Self::KclRsFanOut
        )
    }

    /// Installs what the client needs, and returns the program that runs its script, and where that finds packages.
    fn install(self) -> Result<(PathBuf, Option<PathBuf>), String> {
        let python = |client| foreign_python(client).map(|python| (python, None));
        match self {
            Self::Boto3Polling | Self::Boto3FanOut | Self::KclRsPolling | Self::KclRsFanOut => {
                python("boto3")
            }
            Self::AwsCli => python("awscli"),
            Self::AsyncKinesis => python("async-kinesis"),
            Self::JavaScriptFanOut | Self::LifionPolling | Self::LifionFanOut => {
                foreign_node().map(|modules| (PathBuf::from("node"), Some(modules)))
            }
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boto3Polling => "boto3, polling",
            Self::Boto3FanOut => "boto3, fan-out",
            Self::AwsCli => "AWS CLI, polling",
            Self::JavaScriptFanOut => "JavaScript SDK, fan-out",
            Self::AsyncKinesis => "async-kinesis, polling",
            Self::LifionPolling => "lifion-kinesis, polling",
            Self::LifionFanOut => "lifion-kinesis, fan-out",
            Self::KclRsPolling => "kcl-rs, polling",
            Self::KclRsFanOut => "kcl-rs, fan-out",
        })
    }
}

/// A running client. It is killed when dropped.
#[derive(Debug)]
pub(super) struct Running {
    folder: PathBuf,
    process: Child,
}

impl Running {
    /// Starts a client that reads this stream of the server at `endpoint` from its beginning, in a folder of its own.
    pub(super) fn start(
        client: Client,
        stream: &str,
        endpoint: &str,
        testbed: Option<&Testbed>,
        folder: PathBuf,
    ) -> Result<Self, String> {
        let (program, modules) = client.install()?;
        let prepared = || -> std::io::Result<File> {
            fs::create_dir_all(&folder)?;
            for (name, text) in SCRIPTS {
                fs::write(folder.join(name), text)?;
            }
            File::create(folder.join("client.log"))
        };
        let log = prepared().map_err(|error| format!("{}: {error}", folder.display()))?;
        let (script, arguments) = client.script();
        let mut command = Command::new(&program);
        if let Some(testbed) = testbed {
            command.envs(testbed.environment());
        }
        let process = command
            .arg(script)
            .arg(stream)
            .args(arguments)
            .current_dir(&folder)
            .env("AWS_ENDPOINT_URL_KINESIS", endpoint)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NODE_PATH", modules.unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self { folder, process })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// # Errors
    ///
    /// When the client has ended, with the last lines that it said.
    pub(super) fn check_alive(&mut self) -> Result<(), String> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the client ended ({status}): {}", self.last_words())),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn last_words(&self) -> String {
        let log = fs::read(self.folder.join("client.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n    ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
