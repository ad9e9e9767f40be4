//! Kinesis servers of others, each with what is peculiar to it: for the lane that reads through a reshard on all of them.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::servers::Servers;
use super::shared::{Lock, Run, free_port, root};
use super::{Testbed, install, local};

/// A server of the Kinesis protocol, of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Server {
    /// kinesis-mock 0.6.2. By fan-out its closed shards never end.
    KinesisMock,
    /// LocalStack 4.14.0, on this machine. By fan-out it names no children and cuts the subscription of a closed shard.
    Localstack,
    /// ferrokinesis 0.7.0. It names no children when polled, and names them beside a continuation by fan-out.
    Ferrokinesis,
    /// ministack 1.5.33. A reshard deletes the old shards with every record that was not read.
    Ministack,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KinesisMock => "kinesis-mock 0.6.2",
            Self::Localstack => "LocalStack 4.14.0",
            Self::Ferrokinesis => "ferrokinesis 0.7.0",
            Self::Ministack => "ministack 1.5.33",
        })
    }
}

/// A started server with a DynamoDB beside it. Dropping it ends both.
#[derive(Debug)]
pub struct Started {
    testbed: Testbed,
    run: Run,
}

impl Started {
    /// The testbed that it makes.
    pub fn testbed(&self) -> &Testbed {
        &self.testbed
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.run.abandon();
    }
}

impl Server {
    /// Whether the records of a closed shard can be read.
    pub fn keeps_unread(self) -> bool {
        self != Self::Ministack
    }

    /// Installs the server into the target folder where it is not there yet, and starts it with DynamoDB Local beside it.
    ///
    /// # Errors
    ///
    /// The missing or failed part, for people.
    ///
    /// # Cancel safety
    ///
    /// A half-started server ends by itself.
    pub async fn start(self) -> Result<Started, String> {
        let root = root();
        let lock = Lock::acquire(&root).map_err(|error| error.to_string())?;
        let (dynamo_plan, dynamo) = local::dynamodb_local(&root)?;
        let (kinesis_plan, kinesis) = self.plan(&root)?;
        drop(lock);
        let servers = Servers {
            kind: self.to_string(),
            kinesis,
            dynamo: vec![dynamo],
        };
        let run = local::run(&root, &[dynamo_plan, kinesis_plan], &servers).await?;
        run.keep();
        Ok(Started {
            testbed: Testbed { servers },
            run,
        })
    }

    /// The entry in the keeper's configuration, and the server's endpoint.
    fn plan(self, root: &Path) -> Result<(Value, String), String> {
        let port = free_port();
        let endpoint = format!("http://127.0.0.1:{port}");
        let plan = match self {
            Self::KinesisMock => return local::kinesis_mock(root),
            Self::Localstack => json!({
                "name": "localstack", "command": install::localstack(root)?, "cwd": root,
                "args": ["-m", "localstack.runtime.main"],
                "env": {
                    "GATEWAY_LISTEN": format!("127.0.0.1:{port}"), "SERVICES": "kinesis", "EAGER_SERVICE_LOADING": "1",
                    "OVERRIDE_IN_DOCKER": "0", "DNS_ADDRESS": "0", "SKIP_SSL_CERT_DOWNLOAD": "1", "DISABLE_EVENTS": "1",
                    "KINESIS_MOCK_VERSION": "0.6.2",
                },
            }),
            Self::Ferrokinesis => json!({
                "name": "ferrokinesis", "command": install::ferrokinesis(root)?, "cwd": root, "env": {},
                "args": ["--port", port.to_string(), "--create-stream-ms", "20", "--update-stream-ms", "20"],
            }),
            Self::Ministack => json!({
                "name": "ministack", "command": install::newer_ministack(root)?, "cwd": root, "args": ["-m", "ministack"],
                "env": { "GATEWAY_PORT": port.to_string() },
            }),
        };
        Ok((plan, endpoint))
    }
}
