//! The lease table as the accepted writes made it, seen by the proxies; and the rules that it must keep.

use std::collections::BTreeMap;

use kcl_core::types::{Position, RecordPosition};
use serde_json::Value;

use crate::fleet::log::{Entry, Event};

/// A lease row after a write that the table accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenRow {
    /// When the answer passed the proxy: milliseconds since 1970, by the clock of the machine that all processes share.
    pub at: i64,
    /// The place of the worker that wrote.
    pub place: usize,
    /// The shard.
    pub shard: String,
    /// The heartbeat, and the fencing token of the ownership that began with this write.
    pub counter: u64,
    /// The worker named in the row.
    pub owner: Option<String>,
    /// How far the shard is processed.
    pub checkpoint: Position,
}

/// The lease row in an answer of DynamoDB; nothing where the answer shows no lease, or one that is deleted.
pub fn row(at: i64, place: usize, target: &str, answer: &[u8]) -> Option<SeenRow> {
    if !target.ends_with(".UpdateItem") {
        return None;
    }
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let item = answer.get("Attributes")?;
    let text = |name: &str| item.get(name)?.get("S")?.as_str();
    let number = |name: &str| item.get(name)?.get("N")?.as_str()?.parse::<u64>().ok();
    let shard = text("leaseKey").filter(|key| key.starts_with("shardId-"))?;
    let sub_sequence = number("checkpointSubSequenceNumber").unwrap_or(0);
    Some(SeenRow {
        at,
        place,
        shard: shard.to_owned(),
        counter: number("leaseCounter")?,
        owner: text("leaseOwner").map(str::to_owned),
        checkpoint: Position::parse(text("checkpoint")?, sub_sequence).ok()?,
    })
}

/// The history of each shard's row, in the order of its counter.
#[derive(Debug, Clone, Default)]
pub struct SeenTable {
    rows: BTreeMap<String, Vec<SeenRow>>,
}

/// Answers of two writes to one row may pass two proxies in the wrong order, if one of them is slow; but not by this much.
const REORDERED: i64 = 2_000;

impl SeenTable {
    /// Puts the writes in order.
    pub fn new(seen: impl IntoIterator<Item = SeenRow>) -> Self {
        let mut rows: BTreeMap<String, Vec<SeenRow>> = BTreeMap::new();
        for row in seen {
            rows.entry(row.shard.clone()).or_default().push(row);
        }
        for history in rows.values_mut() {
            history.sort_by_key(|row| (row.counter, row.at));
        }
        Self { rows }
    }

    /// How many writes were seen.
    pub fn writes(&self) -> usize {
        self.rows.values().map(Vec::len).sum()
    }

    /// The checkpoint in the row when its counter was this.
    pub fn checkpoint_at(&self, shard: &str, counter: u64) -> Option<&Position> {
        let history = self.rows.get(shard)?;
        let row = history.iter().find(|row| row.counter == counter)?;
        Some(&row.checkpoint)
    }

    /// Returns the ownerships that began by no write which was seen: the proxies must have missed it.
    pub fn unseen(&self, logs: &[Vec<Entry>]) -> Vec<String> {
        let mut found = Vec::new();
        for Entry {
            worker, shard, event, ..
        } in logs.iter().flatten()
        {
            if let Event::Initialized { token } = event
                && self.checkpoint_at(shard, *token).is_none()
            {
                found.push(format!(
                    "{worker} has the token {token} for {shard}, and no write stored it"
                ));
            }
        }
        found
    }

    /// Where checkpoints fall, and where a counter has come twice or has fallen: nobody may ever write on an old version.
    pub fn falls(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pair in self.rows.values().flat_map(|history| history.windows(2)) {
            let [before, after] = pair else { continue };
            let SeenRow { shard, counter, .. } = after;
            if after.checkpoint < before.checkpoint {
                found.push(format!(
                    "the checkpoint of {shard} fell from {} to {} at counter {counter}",
                    before.checkpoint, after.checkpoint
                ));
            }
            // What moves no counter moves no checkpoint either: the beginning of a handoff, and what is known of the shard.
            if after.counter == before.counter && after.checkpoint != before.checkpoint {
                found.push(format!(
                    "two writes stored counter {counter} of {shard}, by places {} and {}",
                    before.place, after.place
                ));
            }
            if after.at + REORDERED < before.at {
                found.push(format!(
                    "the counter of {shard} fell to {} after {counter}",
                    before.counter
                ));
            }
        }
        found
    }

    /// Checkpoints that were stored before everything up to them was delivered.
    ///
    /// `delivered` is, for each shard, every record that was put there, in order, and when it was first delivered.
    pub fn ahead(&self, delivered: &BTreeMap<String, Vec<(RecordPosition, Option<i64>)>>) -> Vec<String> {
        let mut found = Vec::new();
        for (shard, records) in delivered {
            for row in self.rows.get(shard).into_iter().flatten() {
                let covered = records
                    .iter()
                    .take_while(|(record, _)| row.checkpoint.covers(record));
                let late = |delivered: &Option<i64>| delivered.is_none_or(|delivered| delivered > row.at);
                if let Some((record, _)) = covered.into_iter().find(|(_, delivered)| late(delivered)) {
                    found.push(format!(
                        "place {} stored {} for {shard}, but {record} was not processed",
                        row.place, row.checkpoint
                    ));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::types::SequenceNumber;
    use serde_json::json;

    use super::*;

    fn written(at: i64, counter: u64, checkpoint: &str) -> SeenRow {
        let answer = json!({ "Attributes": {
            "leaseKey": { "S": "shardId-0" }, "leaseCounter": { "N": counter.to_string() },
            "leaseOwner": { "S": "worker" }, "checkpoint": { "S": checkpoint },
            "checkpointSubSequenceNumber": { "N": "0" },
        }});
        row(
            at,
            1,
            "DynamoDB_20120810.UpdateItem",
            answer.to_string().as_bytes(),
        )
        .unwrap()
    }

    fn record(number: u128) -> RecordPosition {
        RecordPosition::plain(SequenceNumber::from(number))
    }

    #[test]
    fn only_updates_of_leases_are_rows() {
        let update = "DynamoDB_20120810.UpdateItem";
        let of = |target: &str, item: Value| {
            row(1, 0, target, json!({ "Attributes": item }).to_string().as_bytes())
        };
        let lease = json!({ "leaseKey": { "S": "shardId-0" }, "leaseCounter": { "N": "3" }, "checkpoint": { "S": "TRIM_HORIZON" } });
        assert_eq!(of("DynamoDB_20120810.DeleteItem", lease.clone()), None);
        assert_eq!(of(update, json!({ "leaseKey": { "S": "Leader" } })), None);
        assert_eq!(row(1, 0, update, b"{}"), None);
        let seen = of(update, lease).unwrap();
        assert_eq!(
            (seen.counter, seen.owner, seen.checkpoint),
            (3, None, Position::TrimHorizon)
        );
    }

    #[test]
    fn rising_row_is_fine_in_any_order_seen() {
        let table = SeenTable::new([
            written(1002, 3, "40"),
            written(1001, 4, "40"),
            written(1000, 2, "TRIM_HORIZON"),
        ]);
        assert_eq!(table.falls(), Vec::<String>::new());
        assert_eq!(table.checkpoint_at("shardId-0", 2), Some(&Position::TrimHorizon));
        assert_eq!(table.checkpoint_at("shardId-0", 9), None);
        assert_eq!(table.writes(), 3);
    }

    #[test]
    fn a_checkpoint_that_falls_is_found() {
        let table = SeenTable::new([written(1, 2, "40"), written(2, 3, "39")]);
        assert_eq!(
            table.falls(),
            ["the checkpoint of shardId-0 fell from 40 to 39 at counter 3"]
        );
    }

    #[test]
    fn counter_that_comes_twice_or_falls_is_found() {
        let twice = SeenTable::new([written(1, 2, "40"), written(2, 2, "41")]);
        assert_eq!(
            twice.falls(),
            ["two writes stored counter 2 of shardId-0, by places 1 and 1"]
        );
        let anew = SeenTable::new([written(1, 8, "40"), written(9_000, 2, "TRIM_HORIZON")]);
        assert_eq!(anew.falls(), ["the counter of shardId-0 fell to 2 after 8"]);
    }

    #[test]
    fn a_checkpoint_before_its_records_is_found() {
        let table = SeenTable::new([written(1000, 2, "40"), written(2000, 3, "SHARD_END")]);
        let of = |second: Option<i64>| {
            let records = vec![(record(40), Some(1000)), (record(41), second)];
            table.ahead(&BTreeMap::from([("shardId-0".to_owned(), records)]))
        };
        assert_eq!(of(Some(2000)), Vec::<String>::new());
        let found = ["place 1 stored SHARD_END for shardId-0, but 41 was not processed"];
        assert_eq!(of(Some(2001)), found);
        assert_eq!(of(None), found);
    }

    #[test]
    fn ownership_that_no_write_began_is_found() {
        let entry = |event| Entry {
            time: 1.0,
            worker: "a".to_owned(),
            shard: "shardId-0".to_owned(),
            event,
        };
        let logs = [vec![
            entry(Event::Initialized { token: 4 }),
            entry(Event::Initialized { token: 5 }),
            entry(Event::LeaseLost),
        ]];
        let missing = ["a has the token 5 for shardId-0, and no write stored it"];
        assert_eq!(SeenTable::new([written(1, 4, "40")]).unseen(&logs), missing);
    }
}
