//! Commits or discards a checkpoint that another processor prepared, as the processor of the next owner says.

use std::time::Duration;

use crate::consumer::shard_consumer::ShardConsumer;
use crate::error::Causes;
use crate::lease::change::LeaseChange;
use crate::lease::row::{Lease, OwnerNotes, PendingCheckpoint};
use crate::lifecycle::ConsumerEvent;
use crate::ownership::row_writes::WriteResult;
use crate::processor::StartFrom;
use crate::runtime::backoff::Backoff;
use crate::runtime::log_once::LogOnce;
use crate::types::Position;

/// The pauses between two tries of the write.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The write that a pending checkpoint needs.
#[derive(Debug, Clone, PartialEq)]
enum PendingWrite {
    /// The row changes like this.
    Change(LeaseChange),
    /// Nothing is to be written.
    Nothing,
    /// The pending checkpoint is at no record, and cannot be committed.
    NoRecord,
}

/// Decides what to write for the answer of `initialize` on this row.
fn write_for(start_from: &StartFrom, row: &Lease, is_unpacked: bool) -> PendingWrite {
    match (start_from, &row.pending) {
        (StartFrom::DiscardPending, Some(_)) => PendingWrite::Change(LeaseChange::Prepare { pending: None }),
        (StartFrom::CommitPending, Some(PendingCheckpoint { position, .. })) => match position {
            Position::Record(_) if *position > row.checkpoint => {
                PendingWrite::Change(LeaseChange::Checkpoint {
                    position: position.clone(),
                    finished_ahead: row
                        .valid_finished_ahead(is_unpacked)
                        .and_then(|ahead| ahead.rebased(position)),
                    notes: OwnerNotes::NONE,
                })
            }
            Position::Record(_) => PendingWrite::Nothing,
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest | Position::ShardEnd => {
                PendingWrite::NoRecord
            }
        },
        _ => PendingWrite::Nothing,
    }
}

impl ShardConsumer {
    /// Stores what the processor has decided about the pending checkpoint. Returns where to start then, or what happened instead.
    pub(crate) async fn answer_pending(&mut self, start_from: StartFrom) -> Result<StartFrom, ConsumerEvent> {
        let (mut pauses, mut said) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogOnce::default());
        loop {
            let row = self.own.row();
            let change = match write_for(&start_from, &row, self.own.is_unpacked()) {
                PendingWrite::Change(change) => change,
                PendingWrite::Nothing => break,
                PendingWrite::NoRecord => {
                    tracing::error!(
                        checkpoint = %row.checkpoint,
                        "the pending checkpoint is at no record and is not committed; its records come again"
                    );
                    break;
                }
            };
            let verb = change.verb();
            match self.own.write(change).await {
                WriteResult::Applied(row) => {
                    tracing::info!(change = verb, checkpoint = %row.checkpoint, "the pending checkpoint is answered");
                }
                WriteResult::Lost | WriteResult::GivenUp(_) => return Err(ConsumerEvent::LeaseLost),
                WriteResult::Failed(error) => {
                    said.warn(
                        "the answer to the pending checkpoint is not stored yet; the shard is read once it is",
                        Causes(&error),
                    );
                    if let Some(event) = self.pause_for(pauses.failed()).await {
                        return Err(event);
                    }
                }
            }
        }
        self.own.context.set_pending_checkpoint(None);
        let is_answer = matches!(start_from, StartFrom::CommitPending | StartFrom::DiscardPending);
        Ok(if is_answer {
            StartFrom::Checkpoint
        } else {
            start_from
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ShardId;

    fn row(pending: Option<&str>) -> Lease {
        let position = |text| Position::parse(text, 0).unwrap();
        Lease {
            pending: pending.map(|text| PendingCheckpoint {
                position: position(text),
                state: None,
            }),
            ..Lease::unowned(ShardId::new("shard").unwrap(), position("5"))
        }
    }

    #[test]
    fn commit_moves_checkpoint_to_pending_record() {
        let moves = |pending| {
            let write = write_for(&StartFrom::CommitPending, &row(pending), true);
            let PendingWrite::Change(LeaseChange::Checkpoint { position, .. }) = write else {
                return None;
            };
            Some(position.to_string())
        };
        assert_eq!(moves(Some("9")), Some("9".to_owned()));
        assert_eq!(moves(Some("5")), None, "the checkpoint is there already");
        assert_eq!(moves(None), None);
    }

    #[test]
    fn pending_end_of_java_is_not_committed() {
        for sentinel in ["SHARD_END", "TRIM_HORIZON"] {
            let write = write_for(&StartFrom::CommitPending, &row(Some(sentinel)), true);
            assert_eq!(write, PendingWrite::NoRecord);
        }
    }

    #[test]
    fn only_discard_removes_pending_checkpoint() {
        let discards = |start_from| write_for(&start_from, &row(Some("9")), true);
        let discard = PendingWrite::Change(LeaseChange::Prepare { pending: None });
        assert_eq!(discards(StartFrom::DiscardPending), discard);
        assert_eq!(discards(StartFrom::Checkpoint), PendingWrite::Nothing);
        assert_eq!(discards(StartFrom::TrimHorizon), PendingWrite::Nothing);
        let write = write_for(&StartFrom::DiscardPending, &row(None), true);
        assert_eq!(write, PendingWrite::Nothing);
    }
}
