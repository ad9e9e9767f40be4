//! One letter as a line of JSON, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kcl_core::dead_letter::DeadLetter;
use kcl_core::processor::{FailedCall, FencingToken, Severity};
use kcl_core::types::{ApplicationName, HashKeyRange, Record, SequenceNumber, ShardId, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    application: String,
    stream: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_arn: Option<String>,
    shard: String,
    sequence_number: String,
    #[serde(default)]
    sub_sequence_number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    explicit_hash_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash_range: Option<Range>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arrived: Option<String>,
    worker: String,
    fencing_token: u64,
    call: String,
    severity: String,
    panicked: bool,
    attempts: u32,
    first_failure: String,
    last_failure: String,
    error: String,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct Range {
    start: String,
    end: String,
}

/// A line is no dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLetter {
    /// It is no JSON object with the members of a letter. The text says where, and quotes nothing of the line.
    #[error("no JSON object with the members of a dead letter, at column {0}")]
    Malformed(usize),
    /// It was written by a later version.
    #[error("written in version {0} of the format; this library reads version 1: use a later one")]
    Version(u32),
    /// A member has a value that it cannot have.
    #[error("the member {0} has a value that it cannot have")]
    Member(&'static str),
}

/// Writes the letter as one line, with its end.
pub fn encode(letter: &DeadLetter) -> Vec<u8> {
    let record = &letter.record;
    let line = Line {
        version: VERSION,
        application: letter.application.to_string(),
        stream: letter.stream.clone(),
        stream_arn: letter.stream_arn.clone(),
        shard: letter.shard.to_string(),
        sequence_number: record.sequence_number().to_string(),
        sub_sequence_number: record.sub_sequence_number(),
        partition_key: record.partition_key().map(str::to_owned),
        explicit_hash_key: record.explicit_hash_key().map(|key| key.to_string()),
        hash_range: letter.hash_range.map(|range| Range {
            start: range.start().to_string(),
            end: range.end().to_string(),
        }),
        arrived: record.approximate_arrival().map(written_time),
        worker: letter.worker.to_string(),
        fencing_token: letter.fencing_token.as_u64(),
        call: letter.call.as_str().to_owned(),
        severity: letter.severity.as_str().to_owned(),
        panicked: letter.panicked,
        attempts: letter.attempts,
        first_failure: written_time(letter.first_failure),
        last_failure: written_time(letter.last_failure),
        error: letter.error.clone(),
        data: STANDARD.encode(record.data()),
    };
    // Texts and numbers only: there is nothing in it that JSON cannot write.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Reads a line, with or without its end.
///
/// # Errors
///
/// [`InvalidLetter`] says what is wrong with it.
pub fn decode(line: &[u8]) -> Result<DeadLetter, InvalidLetter> {
    let malformed = |error: serde_json::Error| InvalidLetter::Malformed(error.column());
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(line).map_err(malformed)?;
    if version != VERSION {
        return Err(InvalidLetter::Version(version));
    }
    let line: Line = serde_json::from_slice(line).map_err(malformed)?;
    let data = STANDARD
        .decode(&line.data)
        .map_err(|_| InvalidLetter::Member("data"))?;
    let sequence = SequenceNumber::new(line.sequence_number.as_str())
        .map_err(|_| InvalidLetter::Member("sequence_number"))?;
    let mut record = Record::new(sequence, data).with_sub_sequence(line.sub_sequence_number);
    if let Some(key) = line.partition_key {
        record = record.with_partition_key(key);
    }
    if let Some(key) = line.explicit_hash_key {
        let key = key
            .parse()
            .map_err(|_| InvalidLetter::Member("explicit_hash_key"))?;
        record = record.with_explicit_hash_key(key);
    }
    if let Some(arrived) = line.arrived {
        record = record.with_arrival(read_time("arrived", &arrived)?);
    }
    let range = |range: Range| {
        HashKeyRange::parse(&range.start, &range.end).map_err(|_| InvalidLetter::Member("hash_range"))
    };
    let mut letter = DeadLetter::new(
        record,
        line.stream,
        ShardId::new(&line.shard).map_err(|_| InvalidLetter::Member("shard"))?,
        ApplicationName::new(&line.application).map_err(|_| InvalidLetter::Member("application"))?,
        WorkerId::new(&line.worker).map_err(|_| InvalidLetter::Member("worker"))?,
    );
    letter.stream_arn = line.stream_arn;
    letter.hash_range = line.hash_range.map(range).transpose()?;
    letter.fencing_token = FencingToken::new(line.fencing_token);
    letter.call = FailedCall::from_name(&line.call).ok_or(InvalidLetter::Member("call"))?;
    letter.severity = Severity::from_name(&line.severity).ok_or(InvalidLetter::Member("severity"))?;
    letter.panicked = line.panicked;
    letter.attempts = line.attempts;
    letter.first_failure = read_time("first_failure", &line.first_failure)?;
    letter.last_failure = read_time("last_failure", &line.last_failure)?;
    letter.error = line.error;
    Ok(letter)
}

/// RFC 3339 has no time before the year 0 and after 9999: the nearest stands for those.
fn written_time(time: Timestamp) -> String {
    const LAST: u64 = 253_402_300_799_999;
    let millis = u64::try_from(time.as_millis()).unwrap_or(0).min(LAST);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

fn read_time(member: &'static str, text: &str) -> Result<Timestamp, InvalidLetter> {
    let time: SystemTime = humantime::parse_rfc3339(text).map_err(|_| InvalidLetter::Member(member))?;
    let since = time
        .duration_since(UNIX_EPOCH)
        .map_err(|_| InvalidLetter::Member(member))?;
    let millis = i64::try_from(since.as_millis()).map_err(|_| InvalidLetter::Member(member))?;
    Ok(Timestamp::from_millis(millis))
}

#[cfg(test)]
mod tests;
