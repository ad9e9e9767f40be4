//! Writes orders into SQLite, each exactly once: rows, position and fencing token in one transaction.
//!
//! `cargo run -p kcl-examples --example orders_into_sqlite`

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kinesis_client::clock::{ClockExt, TokioClock};
use kinesis_client::processor::{SinkPosition, SinkSql};
use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
    Worker, async_trait,
};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

const SQL: SinkSql = SinkSql::SQLITE;

type Database = Arc<Mutex<Connection>>;

/// The tables. A fleet has them in one file, and sets a `busy_timeout`.
fn open() -> Result<Database, rusqlite::Error> {
    let database = Connection::open_in_memory()?;
    database.execute_batch(SQL.create_table)?;
    database.execute_batch("CREATE TABLE orders (item TEXT NOT NULL)")?;
    Ok(Arc::new(Mutex::new(database)))
}

struct Orders {
    database: Database,
    position: SinkPosition,
}

impl Orders {
    fn new(database: &Database, shard: &ShardContext) -> Self {
        Self {
            database: Arc::clone(database),
            position: SinkPosition::new(shard),
        }
    }

    fn claim(&mut self) -> Result<StartFrom, ProcessorError> {
        let values = self.position.claim_values();
        let row = lock(&self.database).query_row(SQL.claim, values, |row| row.try_into());
        self.position.claimed(row.optional()?)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ProcessorError> {
        let new = self.position.unwritten(batch);
        let Some(last) = new.last() else { return Ok(()) };
        let mut database = lock(&self.database);
        // Each return before the commit rolls back.
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if transaction.execute(SQL.advance, self.position.advance_values(last))? == 0 {
            let values = self.position.read_values();
            let row = transaction.query_row(SQL.read, values, |row| row.try_into());
            return Err(self.position.refused(row.optional()?));
        }
        for record in new {
            let item = std::str::from_utf8(record.data())?;
            transaction.execute("INSERT INTO orders (item) VALUES (?1)", [item])?;
        }
        transaction.commit()?;
        self.position.advanced(last);
        Ok(())
    }
}

#[async_trait]
impl RecordProcessor for Orders {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        tokio::task::block_in_place(|| self.claim())
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        tokio::task::block_in_place(|| self.write(&batch))
    }
}

fn lock(database: &Database) -> MutexGuard<'_, Connection> {
    database.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns how many orders there are, and how many different ones.
fn count(database: &Database) -> Result<(u64, u64), rusqlite::Error> {
    let counted = "SELECT count(*), count(DISTINCT item) FROM orders";
    let (all, different): (i64, i64) = lock(database).query_row(counted, (), |row| row.try_into())?;
    Ok((all.unsigned_abs(), different.unsigned_abs()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = open()?;
    let stream = MemoryStream::builder("orders").shards(2).build();
    let leases = MemoryLeaseStore::new();
    let clock = TokioClock::new();
    for round in 1..=2_u64 {
        for number in 0..100 {
            let order = format!("order {round}/{number}");
            stream.put(format!("customer-{}", number % 10), order)?;
        }
        let sink = Arc::clone(&database);
        let worker = Worker::builder("orders-into-sqlite")
            .stream(stream.clone())
            .lease_store(leases.clone())
            .processor(move |shard: &ShardContext| Orders::new(&sink, shard))
            .build()?
            .start();
        while count(&database)? != (100 * round, 100 * round) {
            clock.sleep(Duration::from_millis(20)).await;
        }
        // The worker drops what runs, and does not store its last checkpoints; the next one goes on at the position of the sink.
        worker.abort();
        worker.join().await?;
    }
    let (orders, different) = count(&database)?;
    println!("{orders} orders, {different} different ones");
    Ok(())
}

#[cfg(test)]
mod tests {
    use kinesis_client::FencingToken;
    use kinesis_client::processor::SinkPositionError;
    use kinesis_client::types::{ApplicationName, Record, SequenceNumber, ShardId, WorkerId};

    use super::*;

    fn owner(database: &Database, token: u64) -> Orders {
        let shard = ShardContext::new(
            ApplicationName::new("orders").unwrap(),
            WorkerId::new("worker").unwrap(),
            "orders",
            ShardId::new("shardId-0").unwrap(),
            FencingToken::new(token),
        );
        Orders::new(database, &shard)
    }

    fn batch(numbers: std::ops::Range<u128>) -> RecordBatch {
        let record = |number: u128| Record::new(SequenceNumber::from(number), format!("order {number}"));
        RecordBatch::unowned(numbers.map(record).collect())
    }

    fn cause(failed: Result<(), ProcessorError>) -> SinkPositionError {
        let error = failed.unwrap_err();
        let cause: &(dyn std::error::Error + 'static) = error.cause();
        cause.downcast_ref::<SinkPositionError>().unwrap().clone()
    }

    #[test]
    fn former_owner_is_refused_before_first_row() {
        let database = open().unwrap();
        let (mut old, mut new) = (owner(&database, 4), owner(&database, 9));
        old.claim().unwrap();
        old.write(&batch(1..3)).unwrap();
        let start = new.claim().unwrap();
        assert!(matches!(start, StartFrom::After(last) if last.sequence == SequenceNumber::from(2)));
        let refused = cause(old.write(&batch(3..5)));
        assert!(
            matches!(refused, SinkPositionError::Fenced { stored: Some(stored), .. } if stored.as_u64() == 9)
        );
        assert!(old.claim().is_err(), "nor may it claim again");
        new.write(&batch(3..5)).unwrap();
        assert_eq!(count(&database).unwrap(), (4, 4));
    }

    #[test]
    fn batch_after_lost_reply_is_written_once() {
        let database = open().unwrap();
        let mut orders = owner(&database, 4);
        orders.claim().unwrap();
        let before = orders.position.clone();
        orders.write(&batch(1..3)).unwrap();
        // The transaction was committed, and the processor does not know that.
        orders.position = before;
        let refused = cause(orders.write(&batch(1..3)));
        assert!(matches!(refused, SinkPositionError::Repeated { .. }));
        orders.write(&batch(1..3)).unwrap();
        assert_eq!(count(&database).unwrap(), (2, 2));
    }

    #[test]
    fn batch_that_fails_leaves_no_row() {
        let database = open().unwrap();
        let mut orders = owner(&database, 4);
        orders.claim().unwrap();
        let records = vec![
            Record::new(SequenceNumber::from(1), "order"),
            Record::new(SequenceNumber::from(2), &b"\xff"[..]),
        ];
        assert!(orders.write(&RecordBatch::unowned(records)).is_err());
        assert_eq!(count(&database).unwrap(), (0, 0));
        orders.write(&batch(1..2)).unwrap();
        assert_eq!(count(&database).unwrap(), (1, 1));
    }
}
