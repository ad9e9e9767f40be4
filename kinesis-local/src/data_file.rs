//! The file that streams outlive the server in.
//!
//! It is one JSON document: `format` is `kinesis-local`, `version` says how to read the rest. A new version of the file is
//! written beside the old one, which it then replaces, so that a crash leaves one of both.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kcl_core::clock::ClockExt as _;
use kcl_core::source::StreamSource as _;
use kcl_core::types::Timestamp;
use kcl_lease_memory::MemoryStream;
use kcl_lease_memory::server::SavedStream;
use serde::{Deserialize, Serialize};

use super::attributes::{Metrics, Tags};
use super::shared::{Commitment, Shared};
use super::streams::Entry;

const FORMAT: &str = "kinesis-local";
const VERSION: u32 = 1;
/// How often the file is written while something changes.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: String,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    commitment: Option<SavedCommitment>,
    streams: Vec<SavedEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedCommitment {
    started: i64,
    ends: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEntry {
    name: String,
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_key: Option<String>,
    metrics: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_throughput: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    consumers: Vec<SavedConsumer>,
    stream: SavedStream,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedConsumer {
    name: String,
    created: i64,
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
}

/// Reads the file into the streams that are served, if it is there. A stream of the file takes the place of a given one.
///
/// # Errors
///
/// When the file cannot be read, or is not one of these.
pub(super) fn load(shared: &Shared, path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(about(path, error.kind(), &error)),
    };
    let wrong = |what: &dyn std::fmt::Display| about(path, io::ErrorKind::InvalidData, what);
    let document: serde_json::Value =
        serde_json::from_reader(BufReader::new(file)).map_err(|error| wrong(&error))?;
    if document["format"] != FORMAT {
        return Err(wrong(&"this is not a data file of kinesis-local"));
    }
    if document["version"] != VERSION {
        let found = &document["version"];
        return Err(wrong(&format!(
            "its version is {found}, and this kinesis-local reads version {VERSION} only"
        )));
    }
    let document: Document = serde_json::from_value(document).map_err(|error| wrong(&error))?;
    *shared.commitment() = document.commitment.map(|saved| Commitment {
        started: Timestamp::from_millis(saved.started),
        ends: saved.ends,
    });
    for saved in document.streams {
        let name = saved.name.clone();
        restore(shared, saved).map_err(|error| wrong(&format!("stream {name}: {error}")))?;
    }
    Ok(())
}

fn restore(shared: &Shared, saved: SavedEntry) -> Result<(), String> {
    let stream = MemoryStream::new(saved.name, 1, std::sync::Arc::clone(&shared.clock));
    stream.restore(saved.stream)?;
    let mut streams = shared.streams();
    let entry = streams.add(Entry::new(stream));
    let arn = entry.identity().map_err(|error| error.message().to_owned())?.arn;
    entry.attributes.tags = Tags(saved.tags);
    entry.attributes.key = saved.encryption_key;
    entry.attributes.metrics = Metrics::named(&saved.metrics);
    entry.attributes.warm_throughput = saved.warm_throughput;
    let mut policies: Vec<_> = saved
        .policy
        .into_iter()
        .map(|policy| (arn.clone(), policy))
        .collect();
    for consumer in saved.consumers {
        let created = Timestamp::from_millis(consumer.created);
        let restored = entry
            .consumers
            .restore((&consumer.name, Tags(consumer.tags)), &arn, created);
        policies.extend(consumer.policy.map(|policy| (restored, policy)));
    }
    entry.attributes.policies.extend(policies);
    Ok(())
}

/// Writes everything that is served to the file.
///
/// # Errors
///
/// When the file cannot be written. The one before is as it was.
pub(super) fn save(shared: &Shared, path: &Path) -> io::Result<()> {
    // From the look at the streams on: an older state must not replace a newer one.
    let _saving = shared.saving();
    let commitment = shared.commitment().map(|commitment| SavedCommitment {
        started: commitment.started.as_millis(),
        ends: commitment.ends,
    });
    let document = Document {
        format: FORMAT.to_owned(),
        version: VERSION,
        commitment,
        streams: shared
            .streams()
            .iter()
            .filter_map(|(_, entry)| save_entry(entry))
            .collect(),
    };
    let replace = || {
        let beside = beside(path);
        let mut file = BufWriter::new(File::create(&beside)?);
        serde_json::to_writer(&mut file, &document)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(beside, path)
    };
    replace().map_err(|error| about(path, error.kind(), &error))
}

/// Returns the lines to write; nothing of a stream that is being deleted, which must not come back.
fn save_entry(entry: &Entry) -> Option<SavedEntry> {
    let stream = entry.stream.save().filter(|_| !entry.is_going())?;
    let attributes = &entry.attributes;
    let arn = entry.identity().ok()?.arn;
    let consumers = entry.consumers.iter().filter(|consumer| !consumer.is_going());
    let consumers = consumers.map(|consumer| SavedConsumer {
        name: consumer.name.clone(),
        created: consumer.created.as_millis(),
        tags: consumer.tags.0.clone(),
        policy: attributes.policies.get(&consumer.arn).cloned(),
    });
    Some(SavedEntry {
        name: entry.stream.name().to_owned(),
        tags: attributes.tags.0.clone(),
        encryption_key: attributes.key.clone(),
        metrics: attributes
            .metrics
            .0
            .iter()
            .map(|metric| (*metric).to_owned())
            .collect(),
        warm_throughput: attributes.warm_throughput,
        policy: attributes.policies.get(&arn).cloned(),
        consumers: consumers.collect(),
        stream,
    })
}

/// Writes the file whenever something has changed since this version, until the scope is killed.
pub(super) async fn keep(shared: Shared, path: PathBuf, mut saved: (u64, u64)) {
    let mut failing = false;
    loop {
        shared.clock.sleep(INTERVAL).await;
        let version = shared.version();
        if version == saved {
            continue;
        }
        match save(&shared, &path) {
            Ok(()) => (saved, failing) = (version, false),
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "failed to write the data file; trying again every second");
            }
            Err(_) => {}
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn about(path: &Path, kind: io::ErrorKind, what: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("data file {}: {what}", path.display()))
}
