//! The logs of producer and workers: one JSON object per line.

use kcl_core::types::{RecordPosition, SequenceNumber};
use serde_json::Value;

/// An event in a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A processor was made for an ownership of the shard.
    Initialized {
        /// The token of the ownership.
        token: u64,
    },
    /// A record was delivered to it.
    Record {
        /// The partition key, where the record has one.
        key: Option<String>,
        /// Its place in the shard.
        position: RecordPosition,
    },
    /// Another worker has the lease.
    LeaseLost,
    /// The last record of the closed shard was processed.
    ShardEnded,
    /// The worker hands over or shuts down.
    ShutdownRequested,
}

impl Event {
    /// Returns `true` if an ownership begins with it.
    pub fn begins(&self) -> bool {
        matches!(self, Self::Initialized { .. })
    }
}

/// A line of a worker's log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Seconds since the start of 1970, by the clock of the machine that all workers share.
    pub time: f64,
    /// The worker.
    pub worker: String,
    /// The shard.
    pub shard: String,
    /// The event.
    pub event: Event,
}

/// A line of the producer's log: a record that the stream has taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// Seconds since the start of 1970, when it was sent for the first time.
    pub time: f64,
    /// The shard that it went to.
    pub shard: String,
    /// The partition key.
    pub key: String,
    /// Its place in the shard.
    pub position: RecordPosition,
}

/// Reads a worker's log. The last line may be torn: the process may have died while it wrote.
///
/// # Errors
///
/// The first whole line that is not an entry.
pub fn worker_log(text: &str) -> Result<Vec<Entry>, String> {
    lines(text, entry)
}

/// Reads a producer's log; its last line may be torn, too.
///
/// # Errors
///
/// The first whole line that is not a put.
pub fn producer_log(text: &str) -> Result<Vec<Put>, String> {
    lines(text, put)
}

fn lines<T>(text: &str, parse: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parsed = whole.lines().enumerate().map(|(number, line)| {
        let value = serde_json::from_str(line).ok();
        value
            .as_ref()
            .and_then(&parse)
            .ok_or_else(|| format!("line {} is not understood: {line}", number + 1))
    });
    parsed.collect()
}

fn entry(value: &Value) -> Option<Entry> {
    let event = match value.get("event")?.as_str()? {
        "initialized" => Event::Initialized {
            token: value.get("token")?.as_u64()?,
        },
        "record" => Event::Record {
            key: value.get("key")?.as_str().map(str::to_owned),
            position: RecordPosition {
                sub_sequence: value.get("sub")?.as_u64()?,
                ..position(value)?
            },
        },
        "lease_lost" => Event::LeaseLost,
        "shard_ended" => Event::ShardEnded,
        "shutdown_requested" => Event::ShutdownRequested,
        _ => return None,
    };
    Some(Entry {
        time: value.get("t")?.as_f64()?,
        worker: value.get("worker")?.as_str()?.to_owned(),
        shard: value.get("shard")?.as_str()?.to_owned(),
        event,
    })
}

fn put(value: &Value) -> Option<Put> {
    Some(Put {
        time: value.get("t")?.as_f64()?,
        shard: value.get("shard")?.as_str()?.to_owned(),
        key: value.get("key")?.as_str()?.to_owned(),
        position: position(value)?,
    })
}

fn position(value: &Value) -> Option<RecordPosition> {
    let sequence = value.get("seq")?.as_str()?.parse::<SequenceNumber>().ok()?;
    Some(RecordPosition::plain(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_out() {
        let log = "{\"t\":1.5,\"worker\":\"a\",\"shard\":\"s\",\"event\":\"record\",\"key\":null,\"seq\":\"12\",\"sub\":3}\n{\"t\":2,\"wor";
        let position = RecordPosition {
            sequence: SequenceNumber::from(12),
            sub_sequence: 3,
        };
        let record = Event::Record { key: None, position };
        let expected = Entry {
            time: 1.5,
            worker: "a".to_owned(),
            shard: "s".to_owned(),
            event: record,
        };
        assert_eq!(worker_log(log), Ok(vec![expected]));
        assert_eq!(worker_log("{\"t\":2,\"wor"), Ok(Vec::new()));
    }

    #[test]
    fn beginning_without_token_is_an_error() {
        let log = |token| {
            format!("{{\"t\":1,\"worker\":\"a\",\"shard\":\"s\",\"event\":\"initialized\"{token}}}\n")
        };
        let entries = worker_log(&log(",\"token\":7")).unwrap();
        assert_eq!(entries[0].event, Event::Initialized { token: 7 });
        assert!(worker_log(&log("")).is_err());
    }

    #[test]
    fn damaged_line_in_middle_is_error() {
        let log = "{\"t\":1,\"worker\":\"a\",\"sha\n{\"t\":1,\"worker\":\"a\",\"shard\":\"s\",\"event\":\"lease_lost\"}\n";
        assert!(
            worker_log(log)
                .unwrap_err()
                .starts_with("line 1 is not understood")
        );
    }
}
