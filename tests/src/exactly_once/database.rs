//! The table of orders in SQLite or PostgreSQL, written with the statements of [`SinkSql`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, SinkPosition, SinkSql, StartFrom, StoredPosition};
use kcl_core::types::Record;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio_postgres::{Client, NoTls};

const LITE: SinkSql = SinkSql::SQLITE;
const POSTGRES: SinkSql = SinkSql::POSTGRES;

/// How long a statement waits for another process's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the table is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Sqlite(PathBuf),
    Postgres(String),
}

impl FromStr for Address {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("sqlite:") {
            Some(path) => Self::Sqlite(path.into()),
            None => Self::Postgres(text.to_owned()),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(url),
        }
    }
}

/// A connection, which is made again after it was lost.
pub(super) struct Database {
    address: Address,
    open: Option<Open>,
}

enum Open {
    Sqlite(Connection),
    Postgres(Client),
}

/// The worker's part of the rows that it writes.
pub(super) struct Writer<'a> {
    pub(super) worker: &'a str,
    /// How long a transaction stays open before its commit.
    pub(super) pause: Duration,
    /// Whether the reply to its commit is taken for lost.
    pub(super) loses_reply: bool,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) shard: String,
    pub(super) sequence: String,
    pub(super) sub_sequence: i64,
    pub(super) item: String,
    pub(super) token: i64,
    pub(super) worker: String,
}

type Columns = (String, String, i64, String, i64, String);

impl From<Columns> for Order {
    fn from((shard, sequence, sub_sequence, item, token, worker): Columns) -> Self {
        Self {
            shard,
            sequence,
            sub_sequence,
            item,
            token,
            worker,
        }
    }
}

/// In the order in which they were written. A record that is there twice shows as two rows.
const ROWS: &str = "SELECT shard, sequence, sub_sequence, item, token, worker FROM orders ORDER BY id";

impl Database {
    pub(super) fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            open: None,
        }
    }

    async fn open(&mut self) -> Result<&mut Open, ProcessorError> {
        let is_lost = match &self.open {
            None => true,
            Some(Open::Sqlite(_)) => false,
            Some(Open::Postgres(client)) => client.is_closed(),
        };
        if is_lost {
            self.open = Some(match &self.address {
                Address::Sqlite(path) => {
                    let connection = Connection::open(path)?;
                    connection.busy_timeout(LOCK_TIMEOUT)?;
                    Open::Sqlite(connection)
                }
                Address::Postgres(url) => {
                    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "the connection is the sink's, and ends with its client"
                    )]
                    tokio::spawn(connection);
                    client
                        .batch_execute(
                            "SET idle_in_transaction_session_timeout = '2s'; SET lock_timeout = '10s'",
                        )
                        .await?;
                    Open::Postgres(client)
                }
            });
        }
        self.open.as_mut().ok_or_else(|| "it was just opened".into())
    }

    /// Makes the tables unless they are there.
    pub(super) async fn create_tables(&mut self) -> Result<(), ProcessorError> {
        let columns = "shard text NOT NULL, sequence text NOT NULL, sub_sequence bigint NOT NULL, \
                       item text NOT NULL, token bigint NOT NULL, worker text NOT NULL";
        match self.open().await? {
            Open::Sqlite(connection) => {
                connection.execute_batch(LITE.create_table)?;
                connection.execute_batch(&format!(
                    "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, {columns})"
                ))?;
            }
            Open::Postgres(client) => {
                client.batch_execute(POSTGRES.create_table).await?;
                let id = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
                client
                    .batch_execute(&format!("CREATE TABLE orders ({id}, {columns})"))
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) async fn claim(&mut self, position: &mut SinkPosition) -> Result<StartFrom, ProcessorError> {
        let row = match self.open().await? {
            Open::Sqlite(connection) => {
                let values = position.claim_values();
                tokio::task::block_in_place(|| {
                    connection
                        .query_row(LITE.claim, values, |row| row.try_into())
                        .optional()
                })?
            }
            Open::Postgres(client) => {
                let (application, stream, shard, token) = position.claim_values();
                let row = client
                    .query_opt(POSTGRES.claim, &[&application, &stream, &shard, &token])
                    .await?;
                row.as_ref().map(stored)
            }
        };
        position.claimed(row)
    }

    /// Writes those of the records that are new, and returns how many these are.
    pub(super) async fn write(
        &mut self,
        position: &mut SinkPosition,
        records: &[Record],
        writer: &Writer<'_>,
    ) -> Result<usize, ProcessorError> {
        let new = position.unwritten(records);
        let Some(last) = new.last() else { return Ok(0) };
        let advanced = match self.open().await? {
            Open::Sqlite(connection) => {
                tokio::task::block_in_place(|| write_to_sqlite(connection, position, new, last, writer))?
            }
            Open::Postgres(client) => write_to_postgres(client, position, new, last, writer).await?,
        };
        match advanced {
            Ok(()) if writer.loses_reply => Err("the reply to the commit is lost".into()),
            Ok(()) => {
                position.advanced(last);
                Ok(new.len())
            }
            Err(row) => Err(position.refused(row)),
        }
    }

    /// Ends the session of one worker, chosen by the server, in whatever it is doing.
    pub(super) async fn cut_session(&mut self) -> Result<(), ProcessorError> {
        const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1";
        if let Open::Postgres(client) = self.open().await? {
            client.query_opt(CUT, &[]).await?;
        }
        Ok(())
    }

    pub(super) async fn count(&mut self) -> Result<usize, ProcessorError> {
        const COUNT: &str = "SELECT count(*) FROM orders";
        let count: i64 = match self.open().await? {
            Open::Sqlite(connection) => connection.query_row(COUNT, (), |row| row.get(0))?,
            Open::Postgres(client) => client.query_one(COUNT, &[]).await?.get(0),
        };
        Ok(usize::try_from(count)?)
    }

    pub(super) async fn orders(&mut self) -> Result<Vec<Order>, ProcessorError> {
        Ok(match self.open().await? {
            Open::Sqlite(connection) => {
                let mut statement = connection.prepare(ROWS)?;
                let rows = statement.query_map((), |row| Columns::try_from(row))?;
                rows.map(|row| row.map(Order::from)).collect::<Result<_, _>>()?
            }
            Open::Postgres(client) => {
                let rows = client.query(ROWS, &[]).await?;
                let columns = |row: &tokio_postgres::Row| {
                    (
                        row.get(0),
                        row.get(1),
                        row.get(2),
                        row.get(3),
                        row.get(4),
                        row.get(5),
                    )
                };
                rows.iter().map(|row| Order::from(columns(row))).collect()
            }
        })
    }
}

/// Nothing if the transaction was committed, or the position for which it was refused.
type Advanced = Result<(), Option<StoredPosition>>;

fn write_to_sqlite(
    connection: &mut Connection,
    position: &SinkPosition,
    new: &[Record],
    last: &Record,
    writer: &Writer<'_>,
) -> Result<Advanced, ProcessorError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.execute(LITE.advance, position.advance_values(last))? == 0 {
        let row = transaction.query_row(LITE.read, position.read_values(), |row| row.try_into());
        return Ok(Err(row.optional()?));
    }
    let (_, _, shard, token) = position.claim_values();
    let mut insert = transaction.prepare(
        "INSERT INTO orders (shard, sequence, sub_sequence, item, token, worker) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for record in new {
        let (sequence, sub) = columns(record)?;
        let item = std::str::from_utf8(record.data())?;
        insert.execute((shard, sequence, sub, item, token, writer.worker))?;
    }
    drop(insert);
    #[expect(clippy::disallowed_methods, reason = "the thread is there for what blocks")]
    std::thread::sleep(writer.pause);
    transaction.commit()?;
    Ok(Ok(()))
}

async fn write_to_postgres(
    client: &mut Client,
    position: &SinkPosition,
    new: &[Record],
    last: &Record,
    writer: &Writer<'_>,
) -> Result<Advanced, ProcessorError> {
    let transaction = client.transaction().await?;
    let (application, stream, shard, token, to, sub, before, before_sub) = position.advance_values(last);
    let advanced = transaction
        .execute(
            POSTGRES.advance,
            &[
                &application,
                &stream,
                &shard,
                &token,
                &to,
                &sub,
                &before,
                &before_sub,
            ],
        )
        .await?;
    if advanced == 0 {
        let row = transaction
            .query_opt(POSTGRES.read, &[&application, &stream, &shard])
            .await?;
        return Ok(Err(row.as_ref().map(stored)));
    }
    let insert = transaction
        .prepare(
            "INSERT INTO orders (shard, sequence, sub_sequence, item, token, worker) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .await?;
    for record in new {
        let (sequence, sub) = columns(record)?;
        let item = std::str::from_utf8(record.data())?;
        transaction
            .execute(&insert, &[&shard, &sequence, &sub, &item, &token, &writer.worker])
            .await?;
    }
    TokioClock::new().sleep(writer.pause).await;
    transaction.commit().await?;
    Ok(Ok(()))
}

fn columns(record: &Record) -> Result<(&str, i64), ProcessorError> {
    let sub = i64::try_from(record.sub_sequence_number())?;
    Ok((record.sequence_number().as_str(), sub))
}

fn stored(row: &tokio_postgres::Row) -> StoredPosition {
    (row.get(0), row.get(1), row.get(2))
}

#[cfg(test)]
mod tests;
