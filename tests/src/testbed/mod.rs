//! One call gives a test its own stream and table names on a real Kinesis and DynamoDB protocol server.
//!
//! In this order: the endpoint in `KCL_TEST_ENDPOINT_URL` (a LocalStack or AWS that you run); LocalStack in a container, where
//! a Docker engine answers; kinesis-mock with DynamoDB Local and ministack, which the testbed installs into the target folder
//! on first use. Started servers are shared by all test processes and end a minute after the last of them.

mod browser;
mod docker;
mod install;
mod local;
mod others;
mod postgres;
mod servers;
mod shared;
mod streams;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::{Credentials, SharedCredentialsProvider};
use kcl_core::clock::{Clock, TokioClock};
use tokio::sync::OnceCell;

use servers::{DynamoServer, Servers, say};

pub use browser::{Browser, Colours};
pub use others::{Server, Started};
pub use postgres::Postgres;
pub use streams::hash_keys;

/// Names the endpoint of a server that somebody else runs.
pub const ENDPOINT_URL: &str = "KCL_TEST_ENDPOINT_URL";
/// Set to 1, a testbed that cannot be had is a failure instead of a test left out.
pub const REQUIRE: &str = "KCL_TEST_REQUIRE_EMULATORS";

static SERVERS: OnceCell<Result<Servers, LeftOut>> = OnceCell::const_new();
static NAMES: AtomicU64 = AtomicU64::new(0);

/// Takes the [`Testbed`], or prints `LEFT OUT` and returns from the test.
#[macro_export]
macro_rules! testbed_or_skip {
    () => {
        match $crate::testbed::Testbed::get().await {
            Ok(testbed) => testbed,
            Err(left_out) => {
                left_out.report(concat!(module_path!(), ", line ", line!()));
                return;
            }
        }
    };
}

/// Kinesis and DynamoDB to test on.
#[derive(Debug, Clone)]
pub struct Testbed {
    servers: Servers,
}

impl Testbed {
    /// Finds or starts the servers. It blocks the calling runtime while it does, which tests can afford.
    ///
    /// # Errors
    ///
    /// [`LeftOut`] when no server can be had here.
    ///
    /// # Panics
    ///
    /// Instead of that error, when `KCL_TEST_REQUIRE_EMULATORS` is 1.
    ///
    /// # Cancel safety
    ///
    /// The next caller starts over; a half-started server ends by itself.
    pub async fn get() -> Result<Self, LeftOut> {
        let required = required();
        let servers = SERVERS.get_or_init(|| find_or_start(required)).await.clone();
        match servers {
            Ok(servers) => Ok(Self { servers }),
            Err(left_out) if required => panic!("{REQUIRE}=1, but {left_out}"),
            Err(left_out) => Err(left_out),
        }
    }

    /// Returns the server of Kinesis here, for reports.
    pub fn kind(&self) -> &str {
        &self.servers.kind
    }

    /// The same with a server of Kinesis that is the test's own.
    #[must_use]
    pub fn with_kinesis(mut self, kind: &str, endpoint: &str) -> Self {
        self.servers.kind = kind.to_owned();
        self.servers.kinesis = endpoint.to_owned();
        self
    }

    /// The endpoint of Kinesis.
    pub fn kinesis_endpoint(&self) -> &str {
        &self.servers.kinesis
    }

    /// How to reach Kinesis.
    pub fn kinesis_config(&self) -> SdkConfig {
        config(&self.servers.kinesis)
    }

    /// How to reach each DynamoDB, with its name: they disagree in useful places, so suites run on all of them.
    pub fn dynamo_configs(&self) -> Vec<(String, SdkConfig)> {
        self.servers
            .dynamo
            .iter()
            .map(|server| (server.name.clone(), config(&server.endpoint)))
            .collect()
    }

    /// How to reach the DynamoDB that tests use that need but one.
    pub fn dynamo_config(&self) -> SdkConfig {
        config(&self.servers.first_dynamo().endpoint)
    }

    /// The endpoint of the DynamoDB of [`dynamo_config`](Self::dynamo_config).
    pub fn dynamo_endpoint(&self) -> &str {
        &self.servers.first_dynamo().endpoint
    }

    /// Returns the server of [`dynamo_config`](Self::dynamo_config), for reports.
    pub fn dynamo_name(&self) -> &str {
        &self.servers.first_dynamo().name
    }

    /// The environment of a child process that is to use this testbed, with the DynamoDB of [`dynamo_config`](Self::dynamo_config).
    pub fn environment(&self) -> Vec<(String, String)> {
        let credentials = credentials();
        let mut environment = vec![
            ("AWS_ENDPOINT_URL_KINESIS", self.servers.kinesis.clone()),
            (
                "AWS_ENDPOINT_URL_DYNAMODB",
                self.servers.first_dynamo().endpoint.clone(),
            ),
            ("AWS_REGION", region()),
            ("AWS_ACCESS_KEY_ID", credentials.access_key_id().to_owned()),
            (
                "AWS_SECRET_ACCESS_KEY",
                credentials.secret_access_key().to_owned(),
            ),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        environment.extend(
            credentials
                .session_token()
                .map(|token| ("AWS_SESSION_TOKEN", token.to_owned())),
        );
        environment
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    /// A folder inside the target folder for what tests write.
    pub fn scratch(&self) -> PathBuf {
        scratch()
    }

    /// A name that no other test uses, in this run or an earlier one: letters, digits and hyphens.
    pub fn unique(&self, name: &str) -> String {
        let started = TokioClock::new().wall().as_millis();
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        format!("{name}-{started:x}-{:x}-{number}", std::process::id())
    }
}

/// The folder with the jars of the Java KCL 3.1.3 and its MultiLangDaemon, which is installed on first use.
///
/// # Errors
///
/// The missing or failed part, for people.
pub fn java_kcl() -> Result<PathBuf, String> {
    install::java_kcl(&shared::root())
}

/// The Python interpreter of an environment with the package `aws-kinesis-agg`, installed into the target folder on first use.
///
/// # Errors
///
/// [`LeftOut`] when it cannot be installed here.
///
/// # Panics
///
/// Instead of that error, when `KCL_TEST_REQUIRE_EMULATORS` is 1.
pub fn kinesis_agg() -> Result<PathBuf, LeftOut> {
    python_for(
        "the package aws-kinesis-agg for Python to compare with",
        install::kinesis_agg,
    )
}

/// The Python interpreter of an environment with gRPC and its generator, installed into the target folder on first use.
///
/// # Errors
///
/// [`LeftOut`] when it cannot be installed here.
///
/// # Panics
///
/// Instead of that error, when `KCL_TEST_REQUIRE_EMULATORS` is 1.
pub fn grpc_python() -> Result<PathBuf, LeftOut> {
    python_for("gRPC for Python to ask with", install::grpc_python)
}

fn python_for(
    lack: &str,
    install: impl FnOnce(&std::path::Path) -> Result<PathBuf, String>,
) -> Result<PathBuf, LeftOut> {
    let root = shared::root();
    let lock = shared::Lock::acquire(&root).map_err(|error| error.to_string());
    let python = lock.and_then(|_lock| install(&root));
    python.map_err(|reason| {
        let left_out = LeftOut {
            lack: format!("{lack}. To have it:"),
            reasons: vec![reason],
        };
        assert!(!required(), "{REQUIRE}=1, but {left_out}");
        left_out
    })
}

/// The Python interpreter of an environment with a client that is not ours (`boto3`, `awscli` or `async-kinesis`), installed into
/// the target folder on first use.
///
/// # Errors
///
/// The missing or failed part, for people.
pub fn foreign_python(client: &str) -> Result<PathBuf, String> {
    let root = shared::root();
    let _lock = shared::Lock::acquire(&root).map_err(|error| error.to_string())?;
    install::foreign_python(&root, client)
}

/// The folder with the packages for Node.js of clients that are not ours, installed into the target folder on first use.
///
/// # Errors
///
/// The missing or failed part, for people.
pub fn foreign_node() -> Result<PathBuf, String> {
    let root = shared::root();
    let _lock = shared::Lock::acquire(&root).map_err(|error| error.to_string())?;
    install::foreign_node(&root)
}

/// A folder inside the target folder for what tests write.
pub fn scratch() -> PathBuf {
    shared::root().join("scratch")
}

fn required() -> bool {
    std::env::var(REQUIRE).is_ok_and(|value| value == "1")
}

/// Why a test cannot run here, and what to install so that it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    lack: String,
    reasons: Vec<String>,
}

impl LeftOut {
    /// Says so where it cannot be overlooked: past the output capture of the test harness.
    pub fn report(&self, test: &str) {
        say(&format!("LEFT OUT: {test}: {self}"));
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {}", self.lack)?;
        self.reasons
            .iter()
            .try_for_each(|reason| write!(f, "\n  - {reason}"))
    }
}

impl std::error::Error for LeftOut {}

async fn find_or_start(require_all: bool) -> Result<Servers, LeftOut> {
    if let Ok(endpoint) = std::env::var(ENDPOINT_URL) {
        return Ok(Servers {
            kind: endpoint.clone(),
            kinesis: endpoint.clone(),
            dynamo: vec![DynamoServer {
                name: "given".to_owned(),
                endpoint,
            }],
        });
    }
    let root = shared::root();
    let no_container = match docker::servers(&root).await {
        Ok(servers) => return Ok(servers),
        Err(why) => why,
    };
    local::servers(&root, require_all).await.map_err(|mut reasons| {
        reasons.push(no_container);
        let lack =
            format!("Kinesis and DynamoDB to test on. Either start Docker, or set {ENDPOINT_URL}, or:");
        LeftOut { lack, reasons }
    })
}

fn config(endpoint: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region()))
        .credentials_provider(SharedCredentialsProvider::new(credentials()))
        .endpoint_url(endpoint)
        .build()
}

fn region() -> String {
    std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned())
}

/// Those of the environment only with an endpoint of the environment; the servers that the testbed starts take anything.
fn credentials() -> Credentials {
    let given = |name: &str| std::env::var(ENDPOINT_URL).and_then(|_| std::env::var(name)).ok();
    let test = || "test".to_owned();
    Credentials::new(
        given("AWS_ACCESS_KEY_ID").unwrap_or_else(test),
        given("AWS_SECRET_ACCESS_KEY").unwrap_or_else(test),
        given("AWS_SESSION_TOKEN"),
        None,
        "testbed",
    )
}
