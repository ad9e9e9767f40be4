use kcl_core::clock::Rng;
use kcl_core::processor::{FencingToken, ShardContext, SinkPositionError};
use kcl_core::types::{ApplicationName, RecordPosition, SequenceNumber, ShardId, WorkerId};

use super::*;
use crate::testbed::Postgres;

fn context(application: &str, shard: &str, token: u64) -> ShardContext {
    ShardContext::new(
        ApplicationName::new(application).unwrap(),
        WorkerId::new("worker").unwrap(),
        "orders",
        ShardId::new(shard).unwrap(),
        FencingToken::new(token),
    )
}

fn record(number: u64, sub_sequence: u64) -> Record {
    let sequence = SequenceNumber::from(u128::from(number));
    Record::new(sequence, format!("order {number}/{sub_sequence}")).with_sub_sequence(sub_sequence)
}

fn cause(error: &ProcessorError) -> &SinkPositionError {
    let cause: &(dyn std::error::Error + 'static) = error.cause();
    cause.downcast_ref().unwrap_or_else(|| panic!("{error}"))
}

const WRITER: Writer<'_> = Writer {
    worker: "worker",
    pause: Duration::ZERO,
    loses_reply: false,
};

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Committed,
    ReplyLost,
    /// The last insert fails.
    RolledBack,
}

/// Owners that come one after the other, and the late ones of them, are offered records; calls fail, and replies are lost.
async fn walk(database: &mut Database, shard: &str, mut rng: Rng) {
    let stream: Vec<Record> = (0..60).map(|n| record(n / 3 + 1, n % 3)).collect();
    let mut owners: Vec<(SinkPosition, usize)> = Vec::new();
    for step in 0..80 {
        if step == 0 || rng.one_in(6) {
            let token = owners.len() as u64 + 1;
            let mut position = SinkPosition::new(&context("walk", shard, token));
            let start = database.claim(&mut position).await.unwrap();
            let next = if let StartFrom::After(last) = start {
                stream.partition_point(|record| record.position() <= &last)
            } else {
                0
            };
            owners.push((position, next));
        }
        let back = usize::try_from(rng.below(3)).unwrap().min(owners.len() - 1);
        let at = owners.len() - 1 - back;
        let (position, next) = &mut owners[at];
        let most = usize::try_from(1 + rng.below(5)).unwrap();
        let batch = &stream[*next..stream.len().min(*next + most)];
        let outcome = match rng.below(5) {
            0 => Outcome::ReplyLost,
            1 => Outcome::RolledBack,
            _ => Outcome::Committed,
        };
        let before = position.clone();
        let written = match (outcome, batch) {
            (Outcome::RolledBack, [good @ .., last]) => {
                let bad = Record::new(last.sequence_number().clone(), &b"\xff"[..])
                    .with_sub_sequence(last.sub_sequence_number());
                let failing = [good, &[bad]].concat();
                let written = database.write(position, &failing, &WRITER).await;
                if matches!(written, Ok(1..)) {
                    panic!("the last row is invalid");
                }
                continue;
            }
            _ => database.write(position, batch, &WRITER).await,
        };
        match (written, outcome) {
            (Ok(1..), _) if back > 0 => panic!("{shard}: a late owner has written"),
            (Ok(_), Outcome::ReplyLost) => *position = before,
            (Ok(_), _) => *next += batch.len(),
            (Err(error), _) if back == 0 => {
                assert!(
                    matches!(cause(&error), SinkPositionError::Repeated { .. }),
                    "{error}"
                );
            }
            (Err(error), _) => {
                assert!(
                    matches!(cause(&error), SinkPositionError::Fenced { .. }),
                    "{error}"
                );
            }
        }
    }
    let orders = database.orders().await.unwrap().into_iter();
    let written: Vec<String> = orders
        .filter(|order| order.shard == shard)
        .map(|order| order.item)
        .collect();
    let expected = stream.iter().take(written.len()).map(|record| {
        let item = std::str::from_utf8(record.data()).unwrap();
        item.to_owned()
    });
    assert_eq!(written, expected.collect::<Vec<_>>(), "{shard}");
    assert!(written.len() > 10, "{shard}: only {} were written", written.len());
}

async fn walks(address: &Address, walks: u64) {
    let mut database = Database::new(address);
    database.create_tables().await.unwrap();
    for seed in 0..walks {
        walk(&mut database, &format!("shardId-{seed}"), Rng::from_seed(seed)).await;
    }
    applications_are_apart(&mut database).await;
    tokens_can_be_reset(&mut database).await;
}

async fn applications_are_apart(database: &mut Database) {
    let mut one = SinkPosition::new(&context("one", "shardId-0", 3));
    let mut other = SinkPosition::new(&context("other", "shardId-0", 1));
    database.claim(&mut one).await.unwrap();
    database.write(&mut one, &[record(1, 0)], &WRITER).await.unwrap();
    assert_eq!(database.claim(&mut other).await.unwrap(), StartFrom::Checkpoint);
    let mut again = SinkPosition::new(&context("one", "shardId-0", 3));
    let start = database.claim(&mut again).await.unwrap();
    let first = RecordPosition::plain(SequenceNumber::from(1));
    assert_eq!(start, StartFrom::After(first));
}

async fn tokens_can_be_reset(database: &mut Database) {
    let mut later = SinkPosition::new(&context("one", "shardId-0", 2));
    let refused = database.claim(&mut later).await.unwrap_err();
    assert!(matches!(cause(&refused), SinkPositionError::Fenced { .. }));
    match database.open().await.unwrap() {
        Open::Sqlite(connection) => assert_eq!(connection.execute(LITE.reset_tokens, ["one"]).unwrap(), 1),
        Open::Postgres(client) => {
            assert_eq!(client.execute(POSTGRES.reset_tokens, &[&"one"]).await.unwrap(), 1);
        }
    }
    let start = database.claim(&mut later).await.unwrap();
    let first = RecordPosition::plain(SequenceNumber::from(1));
    assert_eq!(start, StartFrom::After(first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sqlite_has_each_record_once() {
    walks(&Address::Sqlite(":memory:".into()), 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn postgres_has_each_record_once() {
    match Postgres::start().await {
        Ok(server) => {
            let address = Address::Postgres(server.url());
            sessions_make_the_table_together(&address).await;
            walks(&address, 20).await;
        }
        Err(left_out) => left_out.report(module_path!()),
    }
}

async fn sessions_make_the_table_together(address: &Address) {
    let create = async || {
        let mut database = Database::new(address);
        match database.open().await.unwrap() {
            Open::Postgres(client) => client.batch_execute(POSTGRES.create_table).await,
            Open::Sqlite(_) => Ok(()),
        }
    };
    let together = (0..16).map(|_| create());
    for made in futures_util::future::join_all(together).await {
        made.unwrap();
    }
}
