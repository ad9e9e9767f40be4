//! `tail` and `put`: records of a stream.

use std::collections::BTreeSet;
use std::io::BufRead as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kcl_core::clock::Clock as _;
use kcl_core::source::{FetchLimit, RecordStream, Shard, ShardEnd, ShardFilter, StartPosition, StreamSource};
use kcl_core::types::{Record, ShardId};
use kcl_kinesis::KinesisStream;
use serde::Serialize;

use super::watch::interrupted;
use crate::arguments::{Format, PutOptions, TailOptions, TailStart};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::measure::is_transient;
use crate::output::{Printer, complain, csv_line, json, print, printable};
use crate::views::dash;

/// How many records one read asks for.
const RECORDS_PER_READ: u32 = 500;

/// One record, as `kcl tail` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct RecordView {
    shard: String,
    sequence_number: String,
    /// The user record in an aggregated record, where that was unpacked.
    sub_sequence: u64,
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
            sub_sequence: record.sub_sequence_number(),
            partition_key: record.partition_key().map(str::to_owned),
            arrived_ms: record.approximate_arrival().map(|arrived| arrived.as_millis()),
            size_bytes: record.data().len(),
            is_aggregated: record.data().starts_with(&AGGREGATED),
            payload,
            payload_encoding: encoding,
        }
    }

    /// The record as it is printed among others, with its line feed.
    pub(crate) fn text(&self, format: Format) -> String {
        match format {
            Format::Table | Format::Wide => self.line(),
            Format::Json => json(self, true),
            Format::Csv => csv_line(self),
        }
    }

    fn line(&self) -> String {
        let arrived = self.arrived_ms.map(kcl_core::types::Timestamp::from_millis);
        let mut line = format!(
            "{}  {}  {}{}  {} B  {}",
            arrived.map_or_else(dash, |arrived| arrived.to_string()),
            self.shard,
            self.sequence_number,
            match self.sub_sequence {
                0 => String::new(),
                sub_sequence => format!("/{sub_sequence}"),
            },
            self.size_bytes,
            self.partition_key.clone().unwrap_or_else(dash),
        );
        if self.is_aggregated {
            line += "  (aggregated)";
        }
        if let Some(payload) = &self.payload {
            line += &format!("  {payload}");
        }
        printable(&line) + "\n"
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
    let mut followed = Followed::default();
    for shard in shards {
        let reader = stream.open(&shard.id, start.clone()).await?;
        followed.begin(shard.id.clone());
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
                complain(&format!("{error}; trying again"));
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
            text += &RecordView::new(&shard, record, options.payload).text(printer.format);
            left -= 1;
        }
        print(&text)?;
        let Some(end) = fetch.end else {
            let wait = u64::try_from(fetch.wait.as_millis()).unwrap_or(0);
            reads.push(read(connection, shard, reader, wait));
            continue;
        };
        if left == 0 {
            break;
        }
        let family = tokio::select! {
            biased;
            () = &mut stop => return Ok(Exit::Fine),
            family = family(connection, &stream, &shard, &end) => family?,
        };
        let children = followed.end(&shard, &family);
        complain(&match children.is_empty() {
            true => format!("{shard} has ended"),
            false => format!("{shard} has ended; following {}", names(&children)),
        });
        for child in children {
            let reader = stream.open(&child, StartPosition::TrimHorizon).await?;
            reads.push(read(connection, child, reader, 0));
        }
    }
    Ok(Exit::Fine)
}

/// A shard with its parents.
type Child = (ShardId, BTreeSet<ShardId>);

/// The shards that a tail has read or reads.
#[derive(Debug, Default)]
struct Followed {
    known: BTreeSet<ShardId>,
    open: BTreeSet<ShardId>,
}

impl Followed {
    fn begin(&mut self, shard: ShardId) {
        self.open.insert(shard.clone());
        self.known.insert(shard);
    }

    /// Notes the end of a shard. Returns its children that are read from now on: those that are not read yet, and of which no other parent
    /// is still read.
    fn end(&mut self, shard: &ShardId, family: &[Child]) -> Vec<ShardId> {
        self.open.remove(shard);
        let mut children = Vec::new();
        for (child, parents) in family {
            if !self.known.contains(child) && self.open.is_disjoint(parents) {
                self.begin(child.clone());
                children.push(child.clone());
            }
        }
        children
    }
}

fn names(shards: &[ShardId]) -> String {
    let names: Vec<&str> = shards.iter().map(ShardId::as_str).collect();
    names.join(" and ")
}

/// The children of a shard that has ended: as its end names them, or as the stream lists them.
async fn family(
    connection: &Connection,
    stream: &KinesisStream,
    shard: &ShardId,
    end: &ShardEnd,
) -> Result<Vec<Child>, Failure> {
    if !end.children.is_empty() {
        let children = end.children.iter();
        return Ok(children
            .map(|child| (child.id.clone(), child.parents.clone()))
            .collect());
    }
    let mut tries = 5;
    loop {
        let failure = match shards(stream, ShardFilter::All).await {
            Ok(listed) => {
                let children = listed.into_iter().filter(|child| child.parents.contains(shard));
                return Ok(children.map(|child| (child.id, child.parents)).collect());
            }
            Err(failure) => failure,
        };
        if failure.exit != Exit::NoAnswer || tries == 0 {
            return Err(failure);
        }
        tries -= 1;
        complain(&format!("{failure}; trying again"));
        let pause = std::time::Duration::from_secs(1);
        connection.clock.sleep_until(connection.clock.now() + pause).await;
    }
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
    let (shard, sequence_number) = connection.put(&options.stream, &key, None, payload).await?;
    let view = PutView {
        shard,
        sequence_number,
        partition_key: key,
    };
    print(&match printer.format {
        Format::Table | Format::Wide => {
            let line = format!("{}  {}  {}", view.shard, view.sequence_number, view.partition_key);
            printable(&line) + "\n"
        }
        Format::Json => json(&view, true),
        Format::Csv => csv_line(&view),
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
    fn merged_child_follows_its_last_parent() {
        let id = |number: u32| ShardId::new(format!("shardId-{number:012}")).unwrap();
        let mut followed = Followed::default();
        [0, 1].into_iter().for_each(|number| followed.begin(id(number)));
        let merged = [(id(2), BTreeSet::from([id(0), id(1)]))];
        assert!(
            followed.end(&id(0), &merged).is_empty(),
            "the other parent is still read"
        );
        assert_eq!(followed.end(&id(1), &merged), [id(2)]);
        let split = [(id(3), BTreeSet::from([id(2)])), (id(4), BTreeSet::from([id(2)]))];
        assert_eq!(followed.end(&id(2), &split), [id(3), id(4)]);
        assert!(followed.end(&id(2), &split).is_empty(), "each child is read once");
    }

    #[test]
    fn names_of_producers_move_no_cursor() {
        assert!(!view(b"a\x07b", true).line().contains('\u{1b}'));
        assert!(view(&[0xF3, 0x89, 0x9A, 0xC2, 1], false).is_aggregated);
    }
}
