//! What the processes of the record processor wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kcl_core::types::ShardId;
use serde_json::Value;

/// Records and ends of shards, as all processes saw them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The sequence numbers of each process and shard, as they came.
    numbers: BTreeMap<(String, String), Vec<String>>,
    ended: BTreeSet<String>,
    /// Contents that came without shard and number, with their process.
    unplaced: Vec<(String, String)>,
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
        } else if let Some(data) = text("data") {
            self.unplaced.push((process.to_owned(), data));
        }
    }

    /// Finds the shards and numbers of contents that came without them. What is in no place was not put, and is left.
    pub(crate) fn locate(&mut self, places: &BTreeMap<String, (ShardId, String)>) {
        for (process, data) in std::mem::take(&mut self.unplaced) {
            if let Some((shard, number)) = places.get(&data) {
                let of_process = self.numbers.entry((process, shard.to_string()));
                of_process.or_default().push(number.clone());
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.numbers
            .iter()
            .flat_map(|((_, shard), numbers)| numbers.iter().map(|number| (shard.as_str(), number.as_str())))
    }

    /// What was put or closed and not seen, in words.
    pub(crate) fn missing(&self, put: &[(ShardId, String)], closed: &[ShardId]) -> Option<String> {
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

    /// # Errors
    ///
    /// When a process got the records of a shard for the first time in another order than that of their numbers.
    pub(crate) fn check_order(&self) -> Result<(), String> {
        for ((process, shard), numbers) in &self.numbers {
            let mut before = BTreeSet::new();
            for number in numbers {
                // All have 56 digits, so texts compare as numbers. What comes again is counted elsewhere.
                let last: Option<&&String> = before.last();
                if last.is_some_and(|last| number < *last) && !before.contains(number) {
                    return Err(format!("{process} got {shard} out of order"));
                }
                before.insert(number);
            }
        }
        Ok(())
    }

    /// How many records came again.
    pub(crate) fn twice(&self) -> usize {
        let different: BTreeSet<(&str, &str)> = self.all().collect();
        self.all().count() - different.len()
    }

    pub(crate) fn ended(&self) -> &BTreeSet<String> {
        &self.ended
    }
}
