//! Settles a checkpoint that was prepared and neither committed nor discarded, as the processor of the next owner says.

use std::time::Duration;

use crate::consumer::shard_consumer::ShardConsumer;
use crate::error::Causes;
use crate::lease::change::LeaseChange;
use crate::lease::row::{Lease, PendingCheckpoint};
use crate::lifecycle::ConsumerEvent;
use crate::ownership::row_writes::WriteResult;
use crate::processor::StartFrom;
use crate::runtime::backoff::Backoff;
use crate::runtime::log_once::LogOnce;
use crate::types::Position;

/// The pauses between two tries of the write.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The fate of a pending checkpoint.
#[derive(Debug, Clone, PartialEq)]
enum Settlement {
    /// The row changes like this.
    Write(LeaseChange),
    /// Nothing is to be written.
    Nothing,
    /// The pending checkpoint is at no record, and cannot be committed.
    NoRecord,
}

/// Decides what to write for the answer of `initialize` on this row.
fn settlement(wish: &StartFrom, row: &Lease) -> Settlement {
    match (wish, &row.pending) {
        (StartFrom::DiscardPending, Some(_)) => Settlement::Write(LeaseChange::Prepare { pending: None }),
        (StartFrom::CommitPending, Some(PendingCheckpoint { position, .. })) => match position {
            Position::Record(_) if *position > row.checkpoint => Settlement::Write(LeaseChange::Checkpoint {
                position: position.clone(),
                throughput: None,
            }),
            Position::Record(_) => Settlement::Nothing,
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest | Position::ShardEnd => {
                Settlement::NoRecord
            }
        },
        _ => Settlement::Nothing,
    }
}

impl ShardConsumer {
    /// Stores what the processor has decided about the pending checkpoint. Returns where to start then, or what happened instead.
    pub(crate) async fn settle_pending(&mut self, wish: StartFrom) -> Result<StartFrom, ConsumerEvent> {
        let (mut pauses, mut said) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogOnce::default());
        loop {
            let row = self.own.row();
            let change = match settlement(&wish, &row) {
                Settlement::Write(change) => change,
                Settlement::Nothing => break,
                Settlement::NoRecord => {
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
                    tracing::info!(change = verb, checkpoint = %row.checkpoint, "settled the pending checkpoint");
                }
                WriteResult::Lost | WriteResult::GivenUp(_) => return Err(ConsumerEvent::LeaseLost),
                WriteResult::Failed(error) => {
                    said.warn(
                        "the pending checkpoint is not settled yet; the shard is read once it is",
                        Causes(&error),
                    );
                    if let Some(event) = self.pause_for(pauses.failed()).await {
                        return Err(event);
                    }
                }
            }
        }
        self.own.context.set_pending_checkpoint(None);
        let is_settled = matches!(wish, StartFrom::CommitPending | StartFrom::DiscardPending);
        Ok(if is_settled { StartFrom::Checkpoint } else { wish })
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
            let settled = settlement(&StartFrom::CommitPending, &row(pending));
            let Settlement::Write(LeaseChange::Checkpoint { position, .. }) = settled else {
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
            let settled = settlement(&StartFrom::CommitPending, &row(Some(sentinel)));
            assert_eq!(settled, Settlement::NoRecord);
        }
    }

    #[test]
    fn only_discard_removes_pending_checkpoint() {
        let discards = |wish| settlement(&wish, &row(Some("9")));
        let discard = Settlement::Write(LeaseChange::Prepare { pending: None });
        assert_eq!(discards(StartFrom::DiscardPending), discard);
        assert_eq!(discards(StartFrom::Checkpoint), Settlement::Nothing);
        assert_eq!(discards(StartFrom::TrimHorizon), Settlement::Nothing);
        let settled = settlement(&StartFrom::DiscardPending, &row(None));
        assert_eq!(settled, Settlement::Nothing);
    }
}
