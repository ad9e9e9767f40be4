//! The logs of producer and workers: one JSON object per line.

use kcl_core::types::{RecordPosition, SequenceNumber};
use serde_json::Value;

/// A sequence number as logged, in numeric order: digits without leading zeros, so longer is larger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence {
    digits: usize,
    text: String,
    sub: u64,
}

impl Sequence {
    /// The sequence number with these digits, and the index inside an aggregated record.
    pub fn new(text: &str, sub: u64) -> Self {
        let text = text.trim_start_matches('0').to_owned();
        Self {
            digits: text.len(),
            text,
            sub,
        }
    }

    /// The same as the core has it.
    pub fn position(&self) -> RecordPosition {
        let sequence = SequenceNumber::new(self.text.clone()).expect("a stream gives out sequence numbers");
        RecordPosition {
            sequence,
            sub_sequence: self.sub,
        }
    }
}

/// What happened in a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A processor was made for an ownership of the shard.
    Initialized,
    /// A record was delivered to it.
    Record {
        /// The partition key, where the record has one.
        key: Option<String>,
        /// Its place in the shard.
        sequence: Sequence,
    },
    /// Another worker has the lease.
    LeaseLost,
    /// The last record of the closed shard was processed.
    ShardEnded,
    /// The worker hands over or shuts down.
    ShutdownRequested,
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
    /// What happened.
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
    pub sequence: Sequence,
}

/// Reads a worker's log. The last line may be torn: the process may have died while it wrote.
///
/// # Errors
///
/// The first whole line that is not an entry.
pub fn worker_log(text: &str) -> Result<Vec<Entry>, String> {
    lines(text, entry)
}

/// Reads the tokens of the ownerships in a worker's log, in the order of their beginnings.
///
/// # Errors
///
/// The first whole line that says of a beginning no token.
pub fn tokens(text: &str) -> Result<Vec<u64>, String> {
    let token = |line: &Value| {
        let begins = line.get("event")?.as_str()? == "initialized";
        if begins {
            line.get("token")?.as_u64().map(Some)
        } else {
            Some(None)
        }
    };
    let tokens = lines(text, token)?;
    Ok(tokens.into_iter().flatten().collect())
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
        "initialized" => Event::Initialized,
        "record" => Event::Record {
            key: value.get("key")?.as_str().map(str::to_owned),
            sequence: Sequence::new(value.get("seq")?.as_str()?, value.get("sub")?.as_u64()?),
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
        sequence: Sequence::new(value.get("seq")?.as_str()?, 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_out() {
        let log = "{\"t\":1.5,\"worker\":\"a\",\"shard\":\"s\",\"event\":\"record\",\"key\":null,\"seq\":\"12\",\"sub\":3}\n{\"t\":2,\"wor";
        let sequence = Sequence::new("12", 3);
        let record = Event::Record { key: None, sequence };
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
    fn each_beginning_has_a_token() {
        let log = "{\"event\":\"initialized\",\"token\":7}\n{\"event\":\"record\"}\n{\"event\":\"initialized\",\"token\":9}\n";
        assert_eq!(tokens(log), Ok(vec![7, 9]));
        assert!(tokens("{\"event\":\"initialized\"}\n").is_err());
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error() {
        let log = "{\"t\":1,\"worker\":\"a\",\"sha\n{\"t\":1,\"worker\":\"a\",\"shard\":\"s\",\"event\":\"lease_lost\"}\n";
        assert!(
            worker_log(log)
                .unwrap_err()
                .starts_with("line 1 is not understood")
        );
    }

    #[test]
    fn sequence_numbers_are_ordered_as_numbers() {
        let ordered = ["9", "10", "099", "100"].map(|text| Sequence::new(text, 0));
        assert!(ordered.is_sorted());
        assert!(Sequence::new("10", 1) < Sequence::new("10", 2));
    }
}
