use crate::lease::row::Lease;
use crate::types::{InvalidName, LeaseKey, ShardId, StreamKey};

/// How the leases of a stream are keyed: part of the identity of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseKeyScheme {
    /// The application reads one stream: the key is the shard id.
    SingleStream,
    /// The application reads many streams, and this is one of them: the key is `stream:shard`.
    MultiStream(StreamKey),
}

impl LeaseKeyScheme {
    /// The key of this shard's lease.
    ///
    /// # Errors
    ///
    /// When stream and shard together are too long for a key.
    pub(crate) fn key(&self, shard: &ShardId) -> Result<LeaseKey, InvalidName> {
        match self {
            Self::SingleStream => Ok(LeaseKey::single_stream(shard)),
            Self::MultiStream(stream) => LeaseKey::new(format!("{stream}:{shard}")),
        }
    }

    /// How the row of a lease names the stream.
    pub(crate) fn stream(&self) -> Option<&StreamKey> {
        match self {
            Self::SingleStream => None,
            Self::MultiStream(stream) => Some(stream),
        }
    }

    /// The shard whose lease has this key, if the key can be one of this stream.
    pub(crate) fn shard(&self, key: &str) -> Option<ShardId> {
        let shard = match self {
            Self::SingleStream => Some(key),
            Self::MultiStream(stream) => key
                .strip_prefix(stream.as_str())
                .and_then(|rest| rest.strip_prefix(':')),
        };
        shard.and_then(|shard| ShardId::new(shard).ok())
    }

    /// Whether the lease is one of this stream.
    pub(crate) fn owns(&self, lease: &Lease) -> bool {
        lease.stream.as_ref() == self.stream()
    }
}
