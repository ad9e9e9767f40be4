use proptest::prelude::*;

use super::*;
use crate::types::WorkerId;

fn record(number: u64, sub_sequence: u64) -> Record {
    Record::new(SequenceNumber::from(u128::from(number)), "order").with_sub_sequence(sub_sequence)
}

fn context(token: u64) -> ShardContext {
    ShardContext::new(
        ApplicationName::new("app").unwrap(),
        WorkerId::new("worker").unwrap(),
        "orders",
        ShardId::new("shardId-0").unwrap(),
        FencingToken::new(token),
    )
}

fn checkpointed(token: u64, checkpoint: &str) -> ShardContext {
    context(token).with_checkpoint(Position::parse(checkpoint, 0).unwrap())
}

fn row(token: i64, sequence: &str, sub_sequence: i64) -> Option<StoredPosition> {
    Some((token, Some(sequence.to_owned()), sub_sequence))
}

fn at(number: u128, sub_sequence: u64) -> RecordPosition {
    RecordPosition {
        sequence: SequenceNumber::from(number),
        sub_sequence,
    }
}

fn cause(error: &ProcessorError) -> SinkPositionError {
    assert_eq!(error.severity(), crate::processor::Severity::Transient);
    let cause: &(dyn std::error::Error + 'static) = error.cause();
    cause.downcast_ref::<SinkPositionError>().unwrap().clone()
}

fn refusal(position: &mut SinkPosition, row: Option<StoredPosition>) -> SinkPositionError {
    cause(&position.refused(row))
}

#[test]
fn position_of_sink_wins_over_checkpoint() {
    for checkpoint in ["TRIM_HORIZON", "LATEST", "3", "9", "99"] {
        let mut position = SinkPosition::new(&checkpointed(7, checkpoint));
        let start = position.claimed(row(7, "9", 2)).unwrap();
        assert_eq!(start, StartFrom::After(at(9, 2)), "{checkpoint}");
        assert_eq!(position.written(), Some(&at(9, 2)));
    }
}

#[test]
fn empty_sink_follows_lease_without_checkpoint() {
    for checkpoint in ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] {
        let mut position = SinkPosition::new(&checkpointed(7, checkpoint));
        let start = position.claimed(Some((7, None, 0))).unwrap();
        assert_eq!(start, StartFrom::Checkpoint);
    }
}

#[test]
fn empty_sink_of_read_shard_needs_a_choice() {
    let empty = Some((7, None, 0));
    let shard = checkpointed(7, "5");
    let error = SinkPosition::new(&shard).claimed(empty.clone()).unwrap_err();
    let checkpoint = at(5, 0);
    assert_eq!(cause(&error), SinkPositionError::Empty { checkpoint });
    for choice in [StartFrom::Checkpoint, StartFrom::TrimHorizon] {
        let mut position = SinkPosition::new(&shard).if_empty(choice.clone());
        assert_eq!(position.claimed(empty.clone()).unwrap(), choice);
        assert_eq!(
            position.claimed(row(7, "6", 0)).unwrap(),
            StartFrom::After(at(6, 0))
        );
    }
}

#[test]
fn claim_without_row_is_fenced() {
    let error = SinkPosition::new(&context(7)).claimed(None).unwrap_err();
    let token = FencingToken::new(7);
    assert_eq!(cause(&error), SinkPositionError::Fenced { token, stored: None });
}

#[test]
fn redrive_is_refused_for_good() {
    let mut position = SinkPosition::new(&context(7).of_redrive());
    let error = position.claimed(row(7, "5", 0)).unwrap_err();
    assert_eq!(error.severity(), crate::processor::Severity::Fatal);
}

#[test]
fn refusal_says_why() {
    let mut position = SinkPosition::new(&context(7));
    position.claimed(row(7, "5", 3)).unwrap();
    let token = FencingToken::new(7);
    let stored = Some(FencingToken::new(8));
    assert_eq!(
        refusal(&mut position, row(8, "5", 3)),
        SinkPositionError::Fenced { token, stored }
    );
    let unclaimed = SinkPositionError::Unclaimed { token };
    assert_eq!(refusal(&mut position, row(6, "5", 3)), unclaimed);
    assert_eq!(refusal(&mut position, None), unclaimed);
    let (written, stored) = (Some(at(5, 3)), Some(at(5, 2)));
    assert_eq!(
        refusal(&mut position, row(7, "5", 2)),
        SinkPositionError::WentBack { written, stored }
    );
    assert_eq!(position.written(), Some(&at(5, 3)), "it is not forgotten");
}

#[test]
fn row_of_strangers_is_named() {
    let mut position = SinkPosition::new(&context(7));
    for (row, column) in [
        ((-7, None, 0), "token"),
        ((7, Some("SHARD_END".to_owned()), 0), "sequence"),
        ((7, Some("5".to_owned()), -1), "sub_sequence"),
    ] {
        let error = position.claimed(Some(row)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("column {column} ")),
            "{error}"
        );
    }
}

#[test]
fn lost_reply_leaves_out_records_that_are_there() {
    let mut position = SinkPosition::new(&context(7));
    position.claimed(Some((7, None, 0))).unwrap();
    let batch = [record(5, 0), record(5, 1), record(6, 0)];
    assert_eq!(position.unwritten(&batch), &batch);
    // The transaction up to 5/1 was committed, and its reply was lost.
    let repeated = SinkPositionError::Repeated {
        position: Some(at(5, 1)),
    };
    assert_eq!(refusal(&mut position, row(7, "5", 1)), repeated);
    assert_eq!(position.unwritten(&batch), &batch[2..]);
    position.advanced(&batch[2]);
    assert_eq!(position.unwritten(&batch), &[]);
}

#[test]
fn position_never_moves_back() {
    let mut position = SinkPosition::new(&context(7));
    position.claimed(row(7, "0009", 4)).unwrap();
    position.advanced(&record(8, 0));
    let earlier = record(9, 3);
    let values = position.advance_values(&earlier);
    let expected = ("app", "orders", "shardId-0", 7, "0009", 4, Some("0009"), 4);
    assert_eq!(values, expected, "as the row spells it");
}

/// The row and the records of one shard in a sink, as the statements treat them.
#[derive(Debug, Clone, Default)]
struct Table {
    row: Option<StoredPosition>,
    records: Vec<RecordPosition>,
}

impl Table {
    fn claim(&mut self, (_, _, _, token): ClaimValues<'_>) -> Option<StoredPosition> {
        let row = self.row.get_or_insert((token, None, 0));
        if row.0 > token {
            return None;
        }
        row.0 = token;
        Some(row.clone())
    }

    /// One transaction; `false` if the update changed no row.
    fn write(&mut self, values: AdvanceValues<'_>, records: &[Record]) -> bool {
        let (_, _, _, token, sequence, sub, before, before_sub) = values;
        let Some(row) = &mut self.row else { return false };
        if (row.0, row.1.as_deref(), row.2) != (token, before, before_sub) {
            return false;
        }
        *row = (token, Some(sequence.to_owned()), sub);
        self.records
            .extend(records.iter().map(|record| record.position().clone()));
        true
    }
}

/// An owner, alive or late, and the record that its shard consumer offers next.
struct Owner {
    position: SinkPosition,
    next: usize,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Another worker takes the shard.
    Take,
    /// One of the owners so far, the last or a late one, is offered so many records.
    Offer(usize, usize, Outcome),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Committed,
    ReplyLost,
    RolledBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Committed),
        1 => Just(Outcome::ReplyLost),
        1 => Just(Outcome::RolledBack),
    ];
    let offer = (0_usize..3, 1_usize..6, outcome).prop_map(|(back, most, how)| Step::Offer(back, most, how));
    proptest::collection::vec(prop_oneof![1 => Just(Step::Take), 4 => offer], 1..60)
}

proptest! {
    #[test]
    fn each_record_is_written_once_in_order(steps in steps()) {
        let stream: Vec<Record> = (0..60).map(|n| record(n / 3 + 1, n % 3)).collect();
        let mut table = Table::default();
        let mut owners: Vec<Owner> = Vec::new();
        for step in [Step::Take].into_iter().chain(steps) {
            match step {
                Step::Take => {
                    let mut position = SinkPosition::new(&context(owners.len() as u64 + 1));
                    let row = table.claim(position.claim_values());
                    let start = position.claimed(row).unwrap();
                    let next = if let StartFrom::After(last) = start { stream.partition_point(|record| record.position() <= &last) } else { 0 };
                    owners.push(Owner { position, next });
                }
                Step::Offer(back, most, how) => {
                    let newest = back.min(owners.len() - 1) == 0;
                    let at = owners.len() - 1 - back.min(owners.len() - 1);
                    let Owner { position, next } = &mut owners[at];
                    let batch = &stream[*next..stream.len().min(*next + most)];
                    let new = position.unwritten(batch);
                    let Some(last) = new.last() else {
                        *next += batch.len();
                        continue;
                    };
                    if matches!(how, Outcome::RolledBack) {
                        continue;
                    }
                    let written = table.write(position.advance_values(last), new);
                    prop_assert!(newest || !written, "a late owner has written");
                    let last = last.clone();
                    match (written, how) {
                        (true, Outcome::Committed) => {
                            position.advanced(&last);
                            *next += batch.len();
                        }
                        (true, _) => {}
                        (false, _) => {
                            let why = refusal(position, table.row.clone());
                            let repeated = matches!(why, SinkPositionError::Repeated { .. });
                            let fenced = matches!(why, SinkPositionError::Fenced { .. });
                            prop_assert!(if newest { repeated } else { fenced }, "{why:?}");
                        }
                    }
                }
            }
            let expected: Vec<_> = stream[..table.records.len()].iter().map(|record| record.position().clone()).collect();
            prop_assert_eq!(&table.records, &expected);
        }
    }

    #[test]
    fn values_of_position_round_trip(digits in "[0-9]{1,129}", sub in 0_u64..1_000_000, token in 0..=i64::MAX as u64) {
        let mut position = SinkPosition::new(&context(token));
        let last = Record::new(SequenceNumber::new(digits).unwrap(), "order").with_sub_sequence(sub);
        let (_, _, _, token, sequence, sub, before, _) = position.advance_values(&last);
        prop_assert_eq!(before, None);
        let row = Some((token, Some(sequence.to_owned()), sub));
        let start = position.claimed(row).unwrap();
        prop_assert_eq!(start, StartFrom::After(last.position().clone()));
    }
}
