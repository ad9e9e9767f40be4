//! The server, and what there is to read on it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::{Credentials, SharedCredentialsProvider};
use bytes::Bytes;
use kcl_aggregation::Aggregator;
use kcl_lease_memory::MemoryStream;
use kinesis_local::{WireOptions, WireServer};

use crate::figures::child::{Child, tell, until_alone};

/// The stream on the server.
pub const STREAM: &str = "figures";

/// Building up the largest prefill takes less than this.
const PREFILLED_WITHIN: Duration = Duration::from_secs(300);

/// The records of one answer: how many, and the bytes of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Records in an answer.
    pub records: u32,
    /// Payload of a record, in bytes.
    pub bytes: u32,
}

impl Body {
    /// The payload of an answer.
    pub fn payload(self) -> u64 {
        u64::from(self.records) * u64::from(self.bytes)
    }
}

/// As in `1000x1024`.
impl FromStr for Body {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (records, bytes) = text.split_once('x').ok_or("expected RECORDSxBYTES")?;
        let number = |text: &str| text.parse().map_err(|_| format!("not a number: {text}"));
        Ok(Self {
            records: number(records)?,
            bytes: number(bytes)?,
        })
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.records, self.bytes)
    }
}

/// The content to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Prefill {
    /// Shards of the stream.
    #[arg(long, default_value_t = 64)]
    pub shards: u32,
    /// The content of one answer of GetRecords.
    #[arg(long, default_value_t = Body { records: 1000, bytes: 1024 })]
    pub body: Body,
    /// How many such answers each shard has.
    #[arg(long, default_value_t = 0)]
    pub answers: u32,
    /// The field that follows these records, in every answer.
    #[arg(long, value_enum, default_value_t = Beside::Nothing)]
    pub beside: Beside,
    /// Throttle as Kinesis does.
    #[arg(long)]
    pub limits: bool,
}

/// Large records among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Beside {
    /// No others.
    Nothing,
    /// One record of 10 MiB, the most that Kinesis takes.
    Large,
    /// One aggregated record of 10 MB, with user records of eight bytes.
    Aggregate,
}

impl Beside {
    /// The name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Large => "large",
            Self::Aggregate => "aggregate",
        }
    }

    fn payload(self) -> Option<Bytes> {
        match self {
            Self::Nothing => None,
            Self::Large => Some(Bytes::from(vec![7; 10 * 1024 * 1024])),
            Self::Aggregate => {
                let mut aggregator = Aggregator::with_limit(usize::MAX);
                for number in 0..AGGREGATED {
                    let key = format!("truck-{}", number % 10_000);
                    let added = aggregator.add(&key, None, &u64::from(number).to_be_bytes());
                    added.expect("the user record is small");
                }
                aggregator.finish().map(|packed| packed.data)
            }
        }
    }
}

/// So many user records of eight bytes, with their keys, make an aggregate of 10 MB.
const AGGREGATED: u32 = 670_000;

impl Prefill {
    /// A stream without a record, throttled as by Kinesis.
    pub fn empty(shards: u32) -> Self {
        Self {
            shards,
            body: Body { records: 1, bytes: 1 },
            answers: 0,
            beside: Beside::Nothing,
            limits: true,
        }
    }
}

/// A server in a process of its own.
#[derive(Debug)]
pub struct PrefilledServer {
    child: Child,
    /// Where it answers.
    pub endpoint: String,
}

impl PrefilledServer {
    /// Starts a server that has this in prefill.
    pub async fn start(prefill: Prefill) -> Self {
        let Prefill {
            shards,
            body,
            answers,
            beside,
            limits,
        } = prefill;
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--shards={shards}"),
            format!("--body={body}"),
            format!("--answers={answers}"),
            format!("--beside={}", beside.name()),
        ];
        arguments.extend(limits.then(|| "--limits".to_owned()));
        let mut child = Child::start(arguments);
        let endpoint = child.tells(PREFILLED_WITHIN).await;
        Self { child, endpoint }
    }

    /// Ends it.
    pub async fn end(self) {
        self.child.end().await;
    }
}

/// Serves the prefill until the process that started this one is gone.
pub async fn serve(prefill: Prefill) {
    let options = match prefill.limits {
        true => WireOptions::default(),
        false => WireOptions::unlimited(),
    };
    let server = WireServer::start([prefilled(prefill)], options).await;
    let server = server.expect("there is a free port");
    tell(&server.endpoint());
    until_alone().await;
}

/// A stream with the records. All of them share the memory of one payload.
fn prefilled(prefill: Prefill) -> MemoryStream {
    let stream = MemoryStream::builder(STREAM).shards(prefill.shards).build();
    let payload: Bytes = (0..prefill.body.bytes)
        .map(|byte| (byte * 31 + 7) as u8)
        .collect();
    let width = u128::MAX / u128::from(prefill.shards);
    let beside = prefill.beside.payload();
    let put = |key: &bytestring::ByteString, payload: &Bytes| {
        for shard in 0..prefill.shards {
            let hash_key = width * u128::from(shard) + width / 2;
            stream
                .put_with_hash_key(key.clone(), hash_key, payload.clone())
                .expect("the stream takes records");
        }
    };
    for number in 0..prefill.answers * prefill.body.records {
        let key = bytestring::ByteString::from(format!("truck-{:05}", number % 10_000));
        put(&key, &payload);
        if let (Some(beside), 0) = (&beside, (number + 1) % prefill.body.records) {
            put(&key, beside);
        }
    }
    stream
}

/// A configuration that reaches the server.
pub fn aws(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_the_wanted_answers() {
        let prefill = Prefill {
            shards: 3,
            body: "10x100".parse().unwrap(),
            answers: 2,
            beside: Beside::Nothing,
            limits: false,
        };
        let stream = prefilled(prefill);
        let shards = stream.shards_snapshot();
        assert_eq!(
            shards.iter().map(|shard| shard.records_kept).collect::<Vec<_>>(),
            [20; 3]
        );
        assert_eq!(prefill.body.payload(), 1000);
        assert_eq!(prefill.body.to_string(), "10x100");
    }

    #[test]
    fn aggregates_and_large_records_have_their_size() {
        let mib = 1024 * 1024;
        assert_eq!(Beside::Nothing.payload(), None);
        assert_eq!(Beside::Large.payload().unwrap().len(), 10 * mib);
        let aggregate = Beside::Aggregate.payload().unwrap().len();
        assert!((9_500_000..=10 * mib).contains(&aggregate), "{aggregate}");
    }
}
