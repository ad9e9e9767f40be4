//! The notes of the record processor's processes, for the verdict of a [`DeliveryLog`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use kcl_core::types::{LeaseKey, RecordPosition, ShardId};
use kcl_lease_memory::MemoryStream;
use kcl_testkit::invariant::{DeliveryLog, Process, Tally};
use serde_json::Value;

/// Records and ends of shards, as all processes saw them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The records of each shard and process, as they came.
    records: BTreeMap<(LeaseKey, Process), Vec<RecordPosition>>,
    ended: BTreeSet<String>,
    /// Contents that came without shard and number, with their process.
    unplaced: Vec<(Process, String)>,
}

impl Seen {
    pub(crate) fn read(folder: &Path) -> Self {
        let mut seen = Self::default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "jsonl") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let process = path.display().to_string().into();
            // The last line may be half written.
            for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
                seen.take(&process, &line);
            }
        }
        seen
    }

    fn take(&mut self, process: &Process, line: &Value) {
        let text = |name: &str| line[name].as_str();
        if let Some(shard) = text("ended") {
            self.ended.insert(shard.to_owned());
        }
        if let (Some(shard), Some(number)) = (text("shard"), text("number")) {
            let position = RecordPosition::plain(number.parse().expect("a sequence number"));
            self.place(process, shard, position);
        } else if let Some(data) = text("data") {
            self.unplaced.push((process.clone(), data.to_owned()));
        }
    }

    fn place(&mut self, process: &Process, shard: &str, position: RecordPosition) {
        let shard = LeaseKey::new(shard).expect("the stream's own name");
        let records = self.records.entry((shard, process.clone()));
        records.or_default().push(position);
    }

    /// Finds the shards and numbers of contents that came without them. A content without a place was not put, and is left.
    pub(crate) fn locate(&mut self, places: &BTreeMap<String, (ShardId, RecordPosition)>) {
        for (process, data) in std::mem::take(&mut self.unplaced) {
            if let Some((shard, position)) = places.get(&data) {
                self.place(&process, shard.as_str(), position.clone());
            }
        }
    }

    /// Returns the shard and the sequence number of each delivery.
    pub(super) fn all(&self) -> impl Iterator<Item = (&LeaseKey, &RecordPosition)> {
        let records = self.records.iter();
        records.flat_map(|((shard, _), records)| records.iter().map(move |position| (shard, position)))
    }

    /// Judges what was seen of everything that was put into the stream, and of the ends of its `closed` shards.
    ///
    /// The files hold no times: a shard counts as read before its children.
    ///
    /// # Errors
    ///
    /// The missing or wrong part, in words.
    pub(crate) fn verdict(&self, stream: &MemoryStream, closed: &[ShardId]) -> Result<Tally, String> {
        let open = closed.iter().filter(|shard| !self.ended.contains(shard.as_str()));
        let open: Vec<&str> = open.map(ShardId::as_str).collect();
        let log = self.delivery_log(stream);
        let lost = log.lost().count();
        if lost > 0 || !open.is_empty() {
            let put = log.records();
            return Err(format!(
                "{lost} of {put} records were not seen; not ended: {open:?}"
            ));
        }
        log.verdict().map_err(|violation| violation.to_string())
    }

    fn delivery_log(&self, stream: &MemoryStream) -> DeliveryLog {
        let mut log = DeliveryLog::default();
        for known in stream.shards_snapshot() {
            let parents = known.shard.parents.iter().map(LeaseKey::single_stream);
            log.open(&LeaseKey::single_stream(&known.shard.id), parents);
        }
        for (shard, record) in stream.put_log() {
            log.put(&LeaseKey::single_stream(&shard), record.position());
        }
        for ((shard, process), records) in &self.records {
            let mut before = BTreeSet::new();
            for position in records {
                // A process that is given a record again has started again: its file does not say so.
                if before.is_empty() || before.contains(position) {
                    log.begin(process, shard, None, None);
                }
                before.insert(position);
                log.deliver(process, shard, position, Duration::ZERO);
            }
        }
        log
    }

    pub(crate) fn ended(&self) -> &BTreeSet<String> {
        &self.ended
    }
}
