use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::Timestamp;

/// Declares a cheap-to-clone name: a non-empty string behind an `Arc`.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes the name.
            ///
            /// # Errors
            ///
            /// When the text is empty, longer than 1024 bytes, or holds a control character.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                check($what, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// DynamoDB limits a partition key to 2048 bytes; a lease key joins two of these names.
const MAX_NAME_BYTES: usize = 1024;

fn check(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_NAME_BYTES {
        "is longer than 1024 bytes"
    } else if text.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(InvalidName { what, problem })
}

/// The text cannot be such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {problem}")]
pub struct InvalidName {
    what: &'static str,
    problem: &'static str,
}

name!(
    /// The name of the application: every worker of one fleet uses the same one.
    ApplicationName,
    "application name"
);
name!(
    /// The id of a shard as Kinesis writes it, such as `shardId-000000000042`.
    ShardId,
    "shard id"
);
name!(
    /// The id of a worker, unique in its fleet and to one process at a time.
    WorkerId,
    "worker id"
);
name!(
    /// The key of a lease row: the shard id where the application reads one stream, and
    /// `account:stream:creation:shard` where it reads many, as in the Java KCL.
    LeaseKey,
    "lease key"
);
name!(
    /// How lease rows name a stream: its bare name where the application reads one stream, and
    /// `account:stream:creation` where it reads many, as in the Java KCL.
    StreamKey,
    "stream key"
);

impl LeaseKey {
    /// The key of a shard's lease in an application that reads one stream: the shard id itself.
    pub fn single_stream(shard: &ShardId) -> Self {
        Self(Arc::clone(&shard.0))
    }

    /// The key of a shard's lease in an application that reads many streams.
    pub fn of_stream(stream: &StreamKey, shard: &ShardId) -> Self {
        Self(Arc::from(format!("{stream}:{shard}")))
    }
}

/// Which stream a lease belongs to, beyond its name: a stream deleted and created again is another stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamIdentity {
    /// The name of the stream.
    pub name: String,
    /// The Amazon resource name, or what a source without AWS uses in its place.
    pub arn: String,
    /// When the stream was created, by the service's clock.
    pub created: Timestamp,
}

impl StreamIdentity {
    /// Returns `true` if both are the same stream, and not one that was deleted and created again under its name.
    ///
    /// The same creation may be reported in other forms: cut or rounded to the millisecond, or in whole seconds. So creation times agree if they
    /// are at most a millisecond apart, or if one is in whole seconds and they are less than a second apart.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// use kinesis_client::types::StreamIdentity;
    /// use kinesis_client::types::Timestamp;
    ///
    /// let created = |millis| StreamIdentity {
    ///     name: "trucks".to_owned(),
    ///     arn: "arn:aws:kinesis:eu-west-1:111122223333:stream/trucks".to_owned(),
    ///     created: Timestamp::from_millis(millis),
    /// };
    /// let stream = created(1_700_000_000_123);
    /// assert!(stream.is_same_stream(&created(1_700_000_000_122)));
    /// assert!(stream.is_same_stream(&created(1_700_000_000_000)));
    /// assert!(!stream.is_same_stream(&created(1_700_000_000_456)));
    /// ```
    pub fn is_same_stream(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|identity| identity.created.as_millis());
        let apart = ours.abs_diff(theirs);
        let in_seconds = ours % 1000 == 0 || theirs % 1000 == 0;
        (&self.name, &self.arn) == (&other.name, &other.arn) && (apart <= 1 || in_seconds && apart < 1000)
    }

    /// How the lease rows of an application that reads many streams name this one: `account:stream:creation`, where the
    /// account is that of the ARN and the creation is in whole seconds since 1970, as in the Java KCL.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// use kinesis_client::types::StreamIdentity;
    /// use kinesis_client::types::Timestamp;
    ///
    /// let identity = StreamIdentity {
    ///     name: "trucks".to_owned(),
    ///     arn: "arn:aws:kinesis:eu-west-1:111122223333:stream/trucks".to_owned(),
    ///     created: Timestamp::from_millis(1_700_000_000_123),
    /// };
    /// assert_eq!(identity.key()?.as_str(), "111122223333:trucks:1700000000");
    /// # Ok::<(), kcl_core::types::InvalidName>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the ARN holds no account number, the name holds a colon or is empty, or the time is before 1970.
    pub fn key(&self) -> Result<StreamKey, InvalidName> {
        let account = self.arn.split(':').nth(4).unwrap_or_default();
        let created = self.created.as_millis().div_euclid(1000);
        StreamKey::new(format!("{account}:{}:{created}", self.name)).and_then(StreamKey::checked)
    }
}

impl StreamKey {
    /// The key, if it is a serialized stream identifier of the Java KCL: an account number, a name without a colon, and the
    /// time of the creation in seconds, above zero.
    fn checked(self) -> Result<Self, InvalidName> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = self.as_str().split(':').collect();
        match parts[..] {
            [account, name, created]
                if is_number(account)
                    && !name.is_empty()
                    && is_number(created)
                    && created.bytes().any(|digit| digit != b'0') =>
            {
                Ok(self)
            }
            _ => Err(InvalidName {
                what: "stream key",
                problem: "is not account:stream:creation",
            }),
        }
    }
}

/// A random number that names one run of one worker process.
///
/// Every write carries it, so that a writer that lost the reply can distinguish its own write from that of another process with the same worker id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(Uuid);

impl Incarnation {
    /// The incarnation made of these random bits.
    pub fn from_random_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Incarnation {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidName {
            what: "incarnation",
            problem: "is not a UUID",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_dynamodb_could_not_store_is_refused() {
        assert_eq!(
            WorkerId::new("").unwrap_err().to_string(),
            "the worker id is empty"
        );
        assert!(ShardId::new("a\nb").is_err());
        assert!(LeaseKey::new("x".repeat(1025)).is_err());
        assert_eq!(WorkerId::new("w-1").unwrap().as_str(), "w-1");
    }

    #[test]
    fn stream_key_is_serialized_as_java_does() {
        let identity = |name: &str, arn: &str, created| StreamIdentity {
            name: name.to_owned(),
            arn: arn.to_owned(),
            created: Timestamp::from_millis(created),
        };
        let arn = "arn:aws-cn:kinesis:cn-north-1:000000000000:stream/a";
        assert_eq!(
            identity("a", arn, 1999).key().unwrap().as_str(),
            "000000000000:a:1"
        );
        for broken in [
            identity("a", arn, 999),
            identity("a", arn, -5000),
            identity("a:b", arn, 5000),
            identity("", arn, 5000),
            identity("a", "arn:aws:kinesis:eu-west-1::stream/a", 5000),
            identity("a", "memory/a", 5000),
        ] {
            assert!(broken.key().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn an_incarnation_survives_being_written_down() {
        let incarnation = Incarnation::from_random_bytes([7; 16]);
        assert_eq!(
            incarnation.to_string().parse::<Incarnation>().unwrap(),
            incarnation
        );
    }
}
