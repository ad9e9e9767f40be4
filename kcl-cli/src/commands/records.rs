//! `tail` and `put`: records of a stream.

use std::io::BufRead as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kcl_core::clock::Clock as _;
use kcl_core::source::{FetchLimit, RecordStream, Shard, ShardFilter, StartPosition, StreamSource};
use kcl_core::types::{Record, ShardId};
use kcl_kinesis::aws_sdk_kinesis::primitives::Blob;
use serde::Serialize;

use super::watch::interrupted;
use crate::arguments::{Format, PutOptions, TailOptions, TailStart};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::{Printer, json, print, printable};
use crate::views::dash;

/// How many records one read asks for.
const RECORDS_PER_READ: u32 = 500;

/// One record, as `kcl tail` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct RecordView {
    shard: String,
    sequence_number: String,
    partition_key: Option<String>,
    arrived_ms: Option<i64>,
    size_bytes: usize,
    is_aggregated: bool,
    /// Only with `--payload`.
    payload: Option<String>,
    /// `text` or `base64`; only with `--payload`.
    payload_encoding: Option<&'static str>,
}

/// The answer to one record, as `kcl put` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct PutView {
    shard: String,
    sequence_number: String,
    partition_key: String,
}

/// The first bytes of an aggregated record (the Kinesis Producer Library's format).
const AGGREGATED: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

impl RecordView {
    pub(crate) fn new(shard: &ShardId, record: &Record, shows_payload: bool) -> Self {
        let (payload, encoding) = match std::str::from_utf8(record.data()) {
            _ if !shows_payload => (None, None),
            Ok(text) => (Some(text.to_owned()), Some("text")),
            Err(_) => (Some(STANDARD.encode(record.data())), Some("base64")),
        };
        Self {
            shard: shard.to_string(),
            sequence_number: record.sequence_number().to_string(),
            partition_key: record.partition_key().map(str::to_owned),
            arrived_ms: record.approximate_arrival().map(|arrived| arrived.as_millis()),
            size_bytes: record.data().len(),
            is_aggregated: record.data().starts_with(&AGGREGATED),
            payload,
            payload_encoding: encoding,
        }
    }

    fn line(&self) -> String {
        let arrived = self.arrived_ms.map(kcl_core::types::Timestamp::from_millis);
        let mut line = format!(
            "{}  {}  {}  {} B  {}",
            arrived.map_or_else(dash, |arrived| arrived.to_string()),
            self.shard,
            self.sequence_number,
            self.size_bytes,
            self.partition_key.as_deref().map_or_else(dash, printable),
        );
        if self.is_aggregated {
            line += "  (aggregated)";
        }
        if let Some(payload) = &self.payload {
            line += &format!("  {}", printable(payload));
        }
        line + "\n"
    }
}

/// `kcl tail`.
pub(crate) async fn tail(
    connection: &Connection,
    options: &TailOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let stream = connection.stream(&options.stream);
    // A reader that begins now misses nothing of closed shards; one that begins earlier reads them, too.
    let filter = match options.from {
        TailStart::Latest => ShardFilter::Open,
        TailStart::Earliest | TailStart::At(_) | TailStart::Ago(_) => ShardFilter::All,
    };
    let start = match options.from {
        TailStart::Latest => StartPosition::Latest,
        TailStart::Earliest => StartPosition::TrimHorizon,
        TailStart::At(time) => StartPosition::AtTimestamp(time),
        TailStart::Ago(ago) => StartPosition::AtTimestamp(connection.now().minus(ago)),
    };
    let mut shards = shards(&stream, filter).await?;
    shards.retain(|shard| {
        options
            .shards
            .as_ref()
            .is_none_or(|shards| shards.is_match(shard.id.as_str()))
    });
    if shards.is_empty() {
        let message = format!("no shard of {} matches", options.stream);
        return Err(Failure::new(Exit::NotFound, message));
    }
    let mut reads = FuturesUnordered::new();
    for shard in shards {
        let reader = stream.open(&shard.id, start.clone()).await?;
        reads.push(read(connection, shard.id, reader, 0));
    }
    let mut stop = Box::pin(interrupted());
    let mut left = options.max.unwrap_or(u64::MAX);
    while left > 0 {
        let (shard, reader, answer) = tokio::select! {
            biased;
            () = &mut stop => return Ok(Exit::Fine),
            read = reads.next() => match read {
                Some(read) => read,
                None => return Ok(Exit::Fine),
            },
        };
        let fetch = match answer {
            Ok(fetch) => fetch,
            Err(error) if is_transient(error.kind()) => {
                eprintln!("kcl: {error}; trying again");
                reads.push(read(connection, shard, reader, 1000));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        for record in fetch
            .records
            .iter()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
        {
            let view = RecordView::new(&shard, record, options.payload);
            text += &match printer.format {
                Format::Table | Format::Wide => view.line(),
                Format::Json => json(&view, true),
                Format::Csv => crate::output::csv(std::slice::from_ref(&view))
                    .lines()
                    .skip(1)
                    .map(|line| line.to_owned() + "\n")
                    .collect(),
            };
            left -= 1;
        }
        print(&text)?;
        if fetch.end.is_none() {
            let wait = u64::try_from(fetch.wait.as_millis()).unwrap_or(0);
            reads.push(read(connection, shard, reader, wait));
        }
    }
    Ok(Exit::Fine)
}

fn is_transient(kind: kcl_core::source::SourceErrorKind) -> bool {
    use kcl_core::source::SourceErrorKind::{Throttled, Unavailable};
    matches!(kind, Throttled | Unavailable)
}

type Read = (
    ShardId,
    Box<dyn RecordStream>,
    Result<kcl_core::source::Fetch, kcl_core::source::SourceError>,
);

/// Waits, and reads once.
async fn read(
    connection: &Connection,
    shard: ShardId,
    mut reader: Box<dyn RecordStream>,
    wait_millis: u64,
) -> Read {
    let wait = std::time::Duration::from_millis(wait_millis);
    connection.clock.sleep_until(connection.clock.now() + wait).await;
    let limit = FetchLimit {
        records: RECORDS_PER_READ,
    };
    let answer = reader.next(limit).await;
    (shard, reader, answer)
}

/// All shards of a stream.
pub(crate) async fn shards(stream: &impl StreamSource, filter: ShardFilter) -> Result<Vec<Shard>, Failure> {
    let (mut shards, mut page) = (Vec::new(), None);
    loop {
        let listed = stream.shards(filter, page).await?;
        shards.extend(listed.shards);
        page = listed.next;
        if page.is_none() {
            return Ok(shards);
        }
    }
}

/// `kcl put`.
pub(crate) async fn put(
    connection: &Connection,
    options: &PutOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let given = match (&options.data, &options.file) {
        (Some(data), _) => Some(data.clone().into_bytes()),
        (None, Some(file)) => {
            let read = std::fs::read(file);
            Some(read.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?)
        }
        (None, None) => None,
    };
    let mut number = 0;
    if let Some(payload) = given {
        while number < options.count {
            put_one(connection, options, number, payload.clone(), printer).await?;
            number += 1;
        }
        return Ok(Exit::Fine);
    }
    for line in std::io::stdin().lock().lines() {
        put_one(connection, options, number, line?.into_bytes(), printer).await?;
        number += 1;
    }
    Ok(Exit::Fine)
}

async fn put_one(
    connection: &Connection,
    options: &PutOptions,
    number: u64,
    payload: Vec<u8>,
    printer: Printer,
) -> Result<(), Failure> {
    let key = options.key.replace("{}", &number.to_string());
    let is_arn = kcl_aws::Arn::looks_like_arn(&options.stream);
    let (name, arn) = match is_arn {
        true => (None, Some(options.stream.clone())),
        false => (Some(options.stream.clone()), None),
    };
    let call = connection.kinesis().put_record();
    let call = call.set_stream_name(name).set_stream_arn(arn);
    let call = call.partition_key(&key).data(Blob::new(payload)).send();
    let request = format!("kinesis:PutRecord on the stream {}", options.stream);
    let answer = connection.call(&request, call).await?;
    let view = PutView {
        shard: answer.shard_id,
        sequence_number: answer.sequence_number,
        partition_key: key,
    };
    print(&match printer.format {
        Format::Table | Format::Wide => {
            format!(
                "{}  {}  {}\n",
                view.shard,
                view.sequence_number,
                printable(&view.partition_key)
            )
        }
        Format::Json => json(&view, true),
        Format::Csv => crate::output::csv(std::slice::from_ref(&view))
            .lines()
            .skip(1)
            .map(|line| line.to_owned() + "\n")
            .collect(),
    })
}

/// A row with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn put_sample() -> PutView {
    PutView {
        shard: String::new(),
        sequence_number: String::new(),
        partition_key: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcl_core::types::SequenceNumber;

    fn view(data: &'static [u8], shows_payload: bool) -> RecordView {
        let shard = ShardId::new("shardId-000000000000").unwrap();
        let record = Record::new(SequenceNumber::from(7), data).with_partition_key("truck\u{1b}[2J");
        RecordView::new(&shard, &record, shows_payload)
    }

    #[test]
    fn payload_is_shown_on_request_only() {
        let hidden = view(b"secret", false);
        assert!(!hidden.line().contains("secret") && !json(&hidden, true).contains("secret"));
        assert_eq!(view(b"text", true).payload.as_deref(), Some("text"));
        let binary = view(&[0xFF, 0xFE], true);
        assert_eq!(
            (binary.payload.as_deref(), binary.payload_encoding),
            (Some("//4="), Some("base64"))
        );
    }

    #[test]
    fn names_of_producers_move_no_cursor() {
        assert!(!view(b"a\x07b", true).line().contains('\u{1b}'));
        assert!(view(&[0xF3, 0x89, 0x9A, 0xC2, 1], false).is_aggregated);
    }
}
