//! The log of a worker: one JSON object per line, for what the table does not show.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// An event in a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum SinkEvent {
    /// An ownership has claimed the sink.
    Claimed {
        shard: String,
        token: u64,
        /// The sink was ahead of the checkpoint: the owner before died between its commit and its checkpoint.
        ahead: bool,
    },
    /// A write was refused, because a later ownership had claimed the shard, or another one has put the file.
    Fenced { shard: String, token: u64 },
    /// A transaction or a put that was taken for failed had succeeded.
    Repeated { shard: String },
    /// An ownership has found a file of another one where it would write its own.
    Found { shard: String },
    /// Another failure, or a claim that was refused.
    Failed { shard: String, why: String },
}

#[derive(Debug)]
pub(super) struct SinkJournal(File);

impl SinkJournal {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    pub(super) fn note(&self, event: &SinkEvent) -> std::io::Result<()> {
        let line = serde_json::to_string(event)?;
        (&self.0).write_all(format!("{line}\n").as_bytes())
    }
}

/// Reads a log. Its last line may be torn: the process may have died while it wrote.
pub(super) fn read(text: &str) -> Vec<SinkEvent> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let event = |line| serde_json::from_str(line).expect("a line that a worker has written");
    whole.lines().map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_last_line_of_journal_is_left_out() {
        let shard = "shard".to_owned();
        let event = SinkEvent::Fenced { shard, token: 3 };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(read(&format!("{line}\n{{\"event\":\"fen")), [event]);
        assert_eq!(read(""), []);
    }
}
