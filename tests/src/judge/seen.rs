//! What the processes of the record processor wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kcl_core::model::ShardId;
use serde_json::Value;

/// Records and ends of shards, as all processes saw them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The sequence numbers of each process and shard, as they came.
    numbers: BTreeMap<(String, String), Vec<String>>,
    ended: BTreeSet<String>,
}

impl Seen {
    pub(super) fn read(folder: &Path) -> Self {
        let mut seen = Self::default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "jsonl") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let process = path.display().to_string();
            // The last line may be half written.
            for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
                seen.take(&process, &line);
            }
        }
        seen
    }

    fn take(&mut self, process: &str, line: &Value) {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        if let Some(shard) = text("ended") {
            self.ended.insert(shard);
        }
        if let (Some(shard), Some(number)) = (text("shard"), text("number")) {
            let of_process = self.numbers.entry((process.to_owned(), shard));
            of_process.or_default().push(number);
        }
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.numbers
            .iter()
            .flat_map(|((_, shard), numbers)| numbers.iter().map(|number| (shard.as_str(), number.as_str())))
    }

    /// What was put or closed and not seen, in words.
    pub(super) fn missing(&self, put: &[(ShardId, String)], closed: &[ShardId]) -> Option<String> {
        let seen: BTreeSet<(&str, &str)> = self.all().collect();
        let records = put
            .iter()
            .filter(|(shard, number)| !seen.contains(&(shard.as_str(), number.as_str())));
        let shards: Vec<&str> = closed
            .iter()
            .map(ShardId::as_str)
            .filter(|shard| !self.ended.contains(*shard))
            .collect();
        let records = records.count();
        (records > 0 || !shards.is_empty()).then(|| {
            format!(
                "{records} of {} records were not seen; not ended: {shards:?}",
                put.len()
            )
        })
    }

    /// # Panics
    ///
    /// When a process got the records of a shard in another order than that of their numbers.
    pub(super) fn assert_in_order(&self) {
        for ((process, shard), numbers) in &self.numbers {
            // All have 56 digits, so texts compare as numbers.
            let rising = numbers.windows(2).all(|pair| pair[0] < pair[1]);
            assert!(rising, "{process} got {shard} out of order");
        }
    }

    /// How many records came again.
    pub(super) fn twice(&self) -> usize {
        let different: BTreeSet<(&str, &str)> = self.all().collect();
        self.all().count() - different.len()
    }

    pub(super) fn ended(&self) -> &BTreeSet<String> {
        &self.ended
    }
}
