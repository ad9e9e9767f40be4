//! The MultiLangDaemon of the Java KCL as a process.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::testbed::Testbed;
use crate::wait::eventually;

const CHILD: &str = include_str!("child.py");

const LOGBACK: &str = r#"<configuration>
  <appender name="STDERR" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{0} - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="STDERR"/></root>
</configuration>
"#;

/// How the daemon reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JavaReading {
    Polling,
    FanOut,
}

/// As the property `retrievalMode` has it.
impl fmt::Display for JavaReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Polling => "POLLING",
            Self::FanOut => "FANOUT",
        })
    }
}

/// A running daemon. It is killed when dropped; its record processors end with it.
#[derive(Debug)]
pub(super) struct Daemon {
    folder: PathBuf,
    process: Mutex<Child>,
}

impl Daemon {
    /// A daemon of an application of its own, which reads this stream of the server at this endpoint.
    pub(super) fn start(
        testbed: &Testbed,
        jars: &Path,
        mode: JavaReading,
        stream: &str,
        endpoint: &str,
    ) -> Self {
        let application = testbed.unique(&format!("conformance-{mode}"));
        let folder = testbed.scratch().join(&application);
        Self::start_as(
            testbed,
            jars,
            mode,
            stream,
            endpoint,
            &application,
            "judge",
            folder,
        )
    }

    /// A daemon of this application under this worker id, whose logs go into the folder.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a property of the daemon's file"
    )]
    pub(super) fn start_as(
        testbed: &Testbed,
        jars: &Path,
        mode: JavaReading,
        stream: &str,
        endpoint: &str,
        application: &str,
        worker: &str,
        folder: PathBuf,
    ) -> Self {
        fs::create_dir_all(&folder).expect("the target folder is writable");
        let write =
            |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file in the folder");
        write("child.py", CHILD);
        write("logback.xml", LOGBACK);
        let environment = testbed.environment();
        let value = |name: &str| {
            let found = environment.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let properties = format!(
            "executableName = python3 {folder}/child.py {folder}\n\
             streamName = {stream}\n\
             applicationName = {application}\n\
             workerId = {worker}\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\n\
             processingLanguage = python/3\n\
             initialPositionInStream = TRIM_HORIZON\n\
             regionName = {region}\n\
             kinesisEndpoint = {endpoint}\n\
             dynamoDBEndpoint = {dynamo}\n\
             metricsLevel = NONE\n\
             retrievalMode = {mode}\n\
             shardSyncIntervalMillis = 3000\n\
             parentShardPollIntervalMillis = 1000\n\
             shutdownGraceMillis = 20000\n\
             disableWorkerMetrics = true\n",
            folder = folder.display(),
            region = value("AWS_REGION"),
            dynamo = value("AWS_ENDPOINT_URL_DYNAMODB"),
        );
        write("daemon.properties", &properties);
        let log = File::create(folder.join("daemon.log")).expect("a file in the folder");
        let process = Command::new("java")
            .args(["-Xmx512m", "-cp"])
            .arg(format!("{}/*:{}", jars.display(), folder.display()))
            .args([
                "software.amazon.kinesis.multilang.MultiLangDaemon",
                "--properties-file",
                "daemon.properties",
            ])
            .current_dir(&folder)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("java starts");
        Self {
            folder,
            process: Mutex::new(process),
        }
    }

    /// Where the daemon and its record processors log.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks it to end, as an orchestrator does, and waits until it has: SIGTERM.
    pub(super) async fn terminate(&self) {
        let id = self.process.lock().unwrap_or_else(PoisonError::into_inner).id();
        let status = Command::new("kill").args(["-TERM", &id.to_string()]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the daemon could not be signalled"
        );
        eventually(Duration::from_secs(60), async || {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            match process.try_wait() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("the daemon still runs".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// # Panics
    ///
    /// When the daemon has ended.
    pub(super) fn check_alive(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = process.try_wait().expect("a child can be asked");
        assert!(
            ended.is_none(),
            "the daemon ended ({ended:?}); its log: {}",
            self.folder.join("daemon.log").display()
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = process.kill();
        let _ = process.wait();
    }
}
