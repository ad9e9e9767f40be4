//! Writes orders into PostgreSQL, each exactly once: rows, position and fencing token in one transaction.
//!
//! `cargo run -p kcl-examples --example orders_into_postgres -- postgres://user:password@localhost/database`
//!
//! It works in the schema `kcl_example` of that database, which it makes again at each start.

use std::process::ExitCode;
use std::str::FromStr as _;
use std::time::Duration;

use kinesis_client::clock::{ClockExt, TokioClock};
use kinesis_client::processor::{SinkPosition, SinkSql, StoredPosition};
use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
    Worker, async_trait,
};
use tokio_postgres::{Client, Config, Error, NoTls, Row};

const SQL: SinkSql = SinkSql::POSTGRES;

/// A worker that stands still inside a transaction holds the lock of its row: the server ends its session before other workers need it, and
/// no session waits for a lock for longer than that.
const OPTIONS: &str =
    "-c search_path=kcl_example -c idle_in_transaction_session_timeout=5s -c lock_timeout=5s";

async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the ban is for the core: the connection is the example's own, and ends with its client"
    )]
    tokio::spawn(connection);
    Ok(client)
}

struct Orders {
    config: Config,
    client: Option<Client>,
    position: SinkPosition,
}

impl Orders {
    /// Takes the connection, or makes one at the first call and when the last one was lost.
    async fn client(&mut self) -> Result<Client, Error> {
        match self.client.take() {
            Some(client) if !client.is_closed() => Ok(client),
            _ => connect(&self.config).await,
        }
    }
}

#[async_trait]
impl RecordProcessor for Orders {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let client = self.client().await?;
        let (application, stream, shard, token) = self.position.claim_values();
        let row = client
            .query_opt(SQL.claim, &[&application, &stream, &shard, &token])
            .await?;
        self.client = Some(client);
        self.position.claimed(row.as_ref().map(stored))
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let mut client = self.client().await?;
        let new = self.position.unwritten(&batch);
        if let Some(last) = new.last() {
            // Each return before the commit rolls back.
            let transaction = client.transaction().await?;
            let values = self.position.advance_values(last);
            let (application, stream, shard, token, sequence, sub, before, before_sub) = values;
            let advanced = transaction
                .execute(
                    SQL.advance,
                    &[
                        &application,
                        &stream,
                        &shard,
                        &token,
                        &sequence,
                        &sub,
                        &before,
                        &before_sub,
                    ],
                )
                .await?;
            if advanced == 0 {
                let row = transaction
                    .query_opt(SQL.read, &[&application, &stream, &shard])
                    .await?;
                return Err(self.position.refused(row.as_ref().map(stored)));
            }
            for record in new {
                let item = std::str::from_utf8(record.data())?;
                transaction
                    .execute("INSERT INTO orders (item) VALUES ($1)", &[&item])
                    .await?;
            }
            transaction.commit().await?;
            self.position.advanced(last);
        }
        self.client = Some(client);
        Ok(())
    }
}

fn stored(row: &Row) -> StoredPosition {
    (row.get(0), row.get(1), row.get(2))
}

/// Returns how many orders there are, and how many different ones.
async fn count(client: &Client) -> Result<(i64, i64), Error> {
    let row = client
        .query_one("SELECT count(*), count(DISTINCT item) FROM orders", &[])
        .await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!(
            "Give the URL of a PostgreSQL database, such as postgres://user:password@localhost/database. \
             A server to try it on: `docker run --rm -p 5432:5432 -e POSTGRES_PASSWORD=password postgres`, \
             with postgres://postgres:password@localhost/postgres."
        );
        return ExitCode::FAILURE;
    };
    match run(&url).await {
        Ok((orders, different)) => {
            println!("{orders} orders, {different} different ones");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("orders_into_postgres: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str) -> Result<(i64, i64), Box<dyn std::error::Error>> {
    let mut config = Config::from_str(url)?;
    config.options(OPTIONS);
    let client = connect(&config).await?;
    client
        .batch_execute(
            "DROP SCHEMA IF EXISTS kcl_example CASCADE; CREATE SCHEMA kcl_example; \
             CREATE TABLE orders (item text NOT NULL)",
        )
        .await?;
    client.batch_execute(SQL.create_table).await?;
    let stream = MemoryStream::builder("orders").shards(2).build();
    let leases = MemoryLeaseStore::new();
    let clock = TokioClock::new();
    for round in 1..=2 {
        for number in 0..100 {
            let order = format!("order {round}/{number}");
            stream.put(format!("customer-{}", number % 10), order)?;
        }
        let config = config.clone();
        let worker = Worker::builder("orders-into-postgres")
            .stream(stream.clone())
            .lease_store(leases.clone())
            .processor(move |shard: &ShardContext| Orders {
                config: config.clone(),
                client: None,
                position: SinkPosition::new(shard),
            })
            .build()?
            .start();
        while count(&client).await? != (100 * round, 100 * round) {
            clock.sleep(Duration::from_millis(20)).await;
        }
        // The worker drops what runs, and does not store its last checkpoints; the next one goes on at the position of the sink.
        worker.abort();
        worker.join().await?;
    }
    Ok(count(&client).await?)
}
