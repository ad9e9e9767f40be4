//! The position that a sink keeps beside its rows, for results that are there exactly once.

use std::fmt;

use crate::processor::{FencingToken, ProcessorError, ShardContext, StartFrom};
use crate::types::{ApplicationName, Position, Record, RecordPosition, SequenceNumber, ShardId};

/// The SQL of a [`SinkPosition`], for one kind of database. Parameters are numbered in the order of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkSql {
    /// Makes the table `kcl_sink_positions` unless it is there. No parameters, no rows.
    pub create_table: &'static str,
    /// Writes the token of an ownership, unless a later one was there, and returns the row; no row if it was refused. Its parameters are
    /// [`claim_values`](SinkPosition::claim_values).
    pub claim: &'static str,
    /// Moves the position on. It changes one row, or none if it is refused. Its parameters are
    /// [`advance_values`](SinkPosition::advance_values).
    pub advance: &'static str,
    /// Returns the row, if there is one. Its parameters are [`read_values`](SinkPosition::read_values).
    pub read: &'static str,
    /// Sets all tokens of an application to 0, for a lease table that was made again while its workers were stopped. Its parameter is the
    /// application.
    pub reset_tokens: &'static str,
}

impl SinkSql {
    /// For SQLite 3.35 and later.
    pub const SQLITE: Self = Self {
        create_table: "CREATE TABLE IF NOT EXISTS kcl_sink_positions (\
            application TEXT NOT NULL, stream TEXT NOT NULL, shard TEXT NOT NULL, \
            token INTEGER NOT NULL, sequence TEXT, sub_sequence INTEGER NOT NULL DEFAULT 0, \
            PRIMARY KEY (application, stream, shard)) WITHOUT ROWID",
        claim: "INSERT INTO kcl_sink_positions (application, stream, shard, token) VALUES (?1, ?2, ?3, ?4) \
            ON CONFLICT (application, stream, shard) DO UPDATE SET token = excluded.token \
            WHERE kcl_sink_positions.token <= excluded.token \
            RETURNING token, sequence, sub_sequence",
        advance: "UPDATE kcl_sink_positions SET sequence = ?5, sub_sequence = ?6 \
            WHERE application = ?1 AND stream = ?2 AND shard = ?3 AND token = ?4 \
            AND sequence IS ?7 AND sub_sequence = ?8",
        read: "SELECT token, sequence, sub_sequence FROM kcl_sink_positions \
            WHERE application = ?1 AND stream = ?2 AND shard = ?3",
        reset_tokens: "UPDATE kcl_sink_positions SET token = 0 WHERE application = ?1",
    };

    /// For PostgreSQL 9.5 and later. Two sessions may make the table at the same time.
    pub const POSTGRES: Self = Self {
        // Without the lock, the second of two sessions fails on an index of the catalogue.
        create_table: "DO $$ BEGIN \
            PERFORM pg_advisory_xact_lock(7744101511); \
            CREATE TABLE IF NOT EXISTS kcl_sink_positions (\
            application text NOT NULL, stream text NOT NULL, shard text NOT NULL, \
            token bigint NOT NULL, sequence text, sub_sequence bigint NOT NULL DEFAULT 0, \
            PRIMARY KEY (application, stream, shard)); END $$",
        claim: "INSERT INTO kcl_sink_positions (application, stream, shard, token) VALUES ($1, $2, $3, $4) \
            ON CONFLICT (application, stream, shard) DO UPDATE SET token = excluded.token \
            WHERE kcl_sink_positions.token <= excluded.token \
            RETURNING token, sequence, sub_sequence",
        advance: "UPDATE kcl_sink_positions SET sequence = $5, sub_sequence = $6 \
            WHERE application = $1 AND stream = $2 AND shard = $3 AND token = $4 \
            AND sequence IS NOT DISTINCT FROM $7 AND sub_sequence = $8",
        read: "SELECT token, sequence, sub_sequence FROM kcl_sink_positions \
            WHERE application = $1 AND stream = $2 AND shard = $3",
        reset_tokens: "UPDATE kcl_sink_positions SET token = 0 WHERE application = $1",
    };
}

/// The columns `token`, `sequence` and `sub_sequence` of a row that was read.
pub type StoredPosition = (i64, Option<String>, i64);

/// The values of [`SinkSql::claim`]: application, stream, shard, token.
pub type ClaimValues<'a> = (&'a str, &'a str, &'a str, i64);

/// The values of [`SinkSql::read`]: application, stream, shard.
pub type ReadValues<'a> = (&'a str, &'a str, &'a str);

/// The values of [`SinkSql::advance`]: application, stream, shard, token, the new sequence number and sub-sequence number, and those that
/// must be there before.
pub type AdvanceValues<'a> = (&'a str, &'a str, &'a str, i64, &'a str, i64, Option<&'a str>, i64);

/// The position of one shard in a database that keeps it beside its own rows: rows, position and fencing token are written in one
/// transaction, so each record is in the database exactly once.
///
/// One value belongs to one ownership of a shard. It depends on no database: it has [the SQL](SinkSql) and the values for it, and
/// understands what was read. Your code runs the statements with the driver of its choice:
///
/// 1. In [`initialize`](crate::processor::RecordProcessor::initialize) it runs [`claim`](SinkSql::claim) with
///    [`claim_values`](Self::claim_values), gives the row to [`claimed`](Self::claimed), and returns its answer. From then on every former owner
///    is refused, before the new one has written anything.
/// 2. In [`process_records`](crate::processor::RecordProcessor::process_records) it takes the records that are
///    [`unwritten`](Self::unwritten), and runs in one transaction [`advance`](SinkSql::advance) with
///    [`advance_values`](Self::advance_values) of the last of them, then its own inserts. After the commit it says [`advanced`](Self::advanced).
/// 3. If `advance` changed no row, it rolls back, [reads](SinkSql::read) the row, and returns the error of [`refused`](Self::refused).
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::processor::{SinkPosition, StartFrom};
/// # use kinesis_client::processor::{FencingToken, ShardContext};
/// # use kinesis_client::types::{ApplicationName, Record, RecordPosition, SequenceNumber, ShardId, WorkerId};
/// # let (app, worker) = (ApplicationName::new("app")?, WorkerId::new("w")?);
/// # let shard = ShardContext::new(app, worker, "orders", ShardId::new("shardId-0")?, FencingToken::new(3));
///
/// let mut position = SinkPosition::new(&shard);
/// assert_eq!(position.claim_values(), ("app", "orders", "shardId-0", 3));
/// // The statement returned this row: a former owner has written up to record 41.
/// let start = position.claimed(Some((3, Some("41".to_owned()), 0))).map_err(|error| error.to_string())?;
/// assert_eq!(start, StartFrom::After(RecordPosition::plain(SequenceNumber::from(41))));
///
/// let batch = [41_u128, 42, 43].map(|number| Record::new(SequenceNumber::from(number), "order"));
/// let new = position.unwritten(&batch);
/// assert_eq!(new, &batch[1..]);
/// let values = position.advance_values(&new[1]);
/// assert_eq!((values.4, values.6), ("43", Some("41")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Where a shard begins
///
/// | The sink | The lease | The shard begins |
/// |---|---|---|
/// | has a position | anywhere | after the sink's position, be it before or behind the checkpoint |
/// | has none | has no checkpoint yet | where the lease says |
/// | has none | has a checkpoint | where [`if_empty`](Self::if_empty) says; without it `initialize` fails, and the shard is held |
#[derive(Debug, Clone)]
pub struct SinkPosition {
    application: ApplicationName,
    stream: String,
    shard: ShardId,
    token: FencingToken,
    /// The record that was checkpointed when the ownership began.
    checkpoint: Option<RecordPosition>,
    if_empty: Option<StartFrom>,
    is_redrive: bool,
    /// The last record that the sink is known to have.
    written: Option<RecordPosition>,
}

impl SinkPosition {
    /// The position of this shard in this ownership. It is kept under the application, the stream's ARN (or its name in a context made by
    /// hand) and the shard, so that applications can share a database.
    pub fn new(shard: &ShardContext) -> Self {
        Self {
            application: shard.application().clone(),
            stream: shard.stream_arn().unwrap_or(shard.stream()).to_owned(),
            shard: shard.shard().clone(),
            token: shard.fencing_token(),
            checkpoint: shard.checkpoint().and_then(Position::record).cloned(),
            if_empty: None,
            is_redrive: shard.is_redrive(),
            written: None,
        }
    }

    /// Says where a shard begins that has a checkpoint, and of which the sink has no position. By default `initialize` fails then, because
    /// two things look the same: a sink that is new to the application, and one that has lost its rows.
    ///
    /// [`StartFrom::Checkpoint`] goes on after the checkpoint, for an application that has kept its positions in the lease table so far.
    /// [`StartFrom::TrimHorizon`] reads all that the stream keeps, for a sink that was emptied.
    #[must_use]
    pub fn if_empty(mut self, start: StartFrom) -> Self {
        self.if_empty = Some(start);
        self
    }

    /// The values for [`SinkSql::claim`].
    pub fn claim_values(&self) -> ClaimValues<'_> {
        let (application, stream, shard) = self.read_values();
        (application, stream, shard, self.token_value())
    }

    /// The values for [`SinkSql::read`].
    pub fn read_values(&self) -> ReadValues<'_> {
        (self.application.as_str(), &self.stream, self.shard.as_str())
    }

    /// Returns where the shard begins, by the row that [`SinkSql::claim`] returned, or `None` if it returned none.
    ///
    /// # Errors
    ///
    /// A transient error with a [`SinkPositionError`] as its [cause](ProcessorError::cause): a later ownership has claimed the shard, the
    /// sink is [empty](SinkPositionError::Empty), or the row is none of ours. A fatal one in a [redrive](SinkPositionError::Redrive).
    pub fn claimed(&mut self, row: Option<StoredPosition>) -> Result<StartFrom, ProcessorError> {
        if self.is_redrive {
            return Err(ProcessorError::fatal(SinkPositionError::Redrive));
        }
        let Some(row) = row else {
            return Err(transient(SinkPositionError::Fenced {
                token: self.token,
                stored: None,
            }));
        };
        let stored = Stored::parse(row).map_err(transient)?;
        if stored.token != self.token {
            return Err(transient(self.fenced_or_unclaimed(stored.token)));
        }
        self.written = stored.position;
        match (&self.written, &self.checkpoint, &self.if_empty) {
            (Some(written), _, _) => Ok(StartFrom::After(written.clone())),
            (None, None, _) => Ok(StartFrom::Checkpoint),
            (None, Some(_), Some(start)) => Ok(start.clone()),
            (None, Some(checkpoint), None) => Err(transient(SinkPositionError::Empty {
                checkpoint: checkpoint.clone(),
            })),
        }
    }

    /// The last record that the sink is known to have.
    pub fn written(&self) -> Option<&RecordPosition> {
        self.written.as_ref()
    }

    /// Returns those of the records, which are in order, that are after the last one written: all of them, fewer if a part was written by
    /// a transaction of which the reply was lost, or none.
    pub fn unwritten<'r>(&self, records: &'r [Record]) -> &'r [Record] {
        let is_written = |record: &Record| {
            self.written
                .as_ref()
                .is_some_and(|last| record.position() <= last)
        };
        let first = records.partition_point(is_written);
        records.get(first..).unwrap_or_default()
    }

    /// The values for [`SinkSql::advance`], which moves the position to this record. It does not move back: for a record that is written
    /// already, the values leave the position where it is.
    pub fn advance_values<'a>(&'a self, last: &'a Record) -> AdvanceValues<'a> {
        let (application, stream, shard, token) = self.claim_values();
        let written = self.written.as_ref();
        let to = written.map_or(last.position(), |written| written.max(last.position()));
        let before = written.map(|written| written.sequence.as_str());
        let sub = written.map_or(0, sub_sequence);
        let (sequence, to_sub) = (to.sequence.as_str(), sub_sequence(to));
        (application, stream, shard, token, sequence, to_sub, before, sub)
    }

    /// Notes that the transaction with this record as the last was committed.
    ///
    /// Without it the next `advance` is refused once, with [`SinkPositionError::Repeated`].
    pub fn advanced(&mut self, last: &Record) {
        self.written = self.written.take().max(Some(last.position().detached()));
    }

    /// Returns the reason for which `advance` changed no row, by the row that [`SinkSql::read`] returned. The error is transient; its
    /// [cause](ProcessorError::cause) is the [`SinkPositionError`].
    ///
    /// After [`SinkPositionError::Repeated`] the position is known again: the same batch is offered again by the error policy, and
    /// [`unwritten`](Self::unwritten) leaves out what is there.
    pub fn refused(&mut self, row: Option<StoredPosition>) -> ProcessorError {
        transient(self.reason(row))
    }

    fn reason(&mut self, row: Option<StoredPosition>) -> SinkPositionError {
        let stored = match row.map(Stored::parse).transpose() {
            Ok(Some(stored)) => stored,
            Ok(None) => return SinkPositionError::Unclaimed { token: self.token },
            Err(error) => return error,
        };
        if stored.token != self.token {
            return self.fenced_or_unclaimed(stored.token);
        }
        // Nothing is less than any record.
        if stored.position < self.written {
            return SinkPositionError::WentBack {
                written: self.written.clone(),
                stored: stored.position,
            };
        }
        self.written.clone_from(&stored.position);
        SinkPositionError::Repeated {
            position: stored.position,
        }
    }

    fn fenced_or_unclaimed(&self, stored: FencingToken) -> SinkPositionError {
        if stored > self.token {
            SinkPositionError::Fenced {
                token: self.token,
                stored: Some(stored),
            }
        } else {
            SinkPositionError::Unclaimed { token: self.token }
        }
    }

    /// A lease counter is at most the largest `i64`.
    fn token_value(&self) -> i64 {
        i64::try_from(self.token.as_u64()).unwrap_or(i64::MAX)
    }
}

/// An index inside an aggregated record, which has far fewer records than the largest `i64`.
fn sub_sequence(position: &RecordPosition) -> i64 {
    i64::try_from(position.sub_sequence).unwrap_or(i64::MAX)
}

fn transient(error: SinkPositionError) -> ProcessorError {
    ProcessorError::transient(error)
}

/// A row, understood.
struct Stored {
    token: FencingToken,
    position: Option<RecordPosition>,
}

impl Stored {
    fn parse((token, sequence, sub_sequence): StoredPosition) -> Result<Self, SinkPositionError> {
        let unreadable = |column, value: &dyn fmt::Display| SinkPositionError::Unreadable {
            column,
            value: value.to_string().chars().take(40).collect(),
        };
        let number = |column, value: i64| u64::try_from(value).map_err(|_| unreadable(column, &value));
        let token = FencingToken::new(number("token", token)?);
        let sub_sequence = number("sub_sequence", sub_sequence)?;
        let position = sequence.map(|digits| match SequenceNumber::new(digits.as_str()) {
            Ok(sequence) => Ok(RecordPosition {
                sequence: sequence.detached(),
                sub_sequence,
            }),
            Err(_) => Err(unreadable("sequence", &digits)),
        });
        Ok(Self {
            token,
            position: position.transpose()?,
        })
    }
}

/// Why a sink with its own position refused an owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SinkPositionError {
    /// A later ownership has claimed the shard. Do: nothing, if this worker stood still or was cut off: its lease is lost. If it repeats with
    /// a lease that is held, the lease table was made again since: stop the workers and run [`SinkSql::reset_tokens`].
    #[error(
        "a later ownership of the shard has claimed the sink{}: this one has token {token} (after a lease table was made again: reset the tokens)",
        stored.map(|stored| format!(" with token {stored}")).unwrap_or_default()
    )]
    Fenced {
        /// The token of this ownership.
        token: FencingToken,
        /// That of the later one, where it was read.
        stored: Option<FencingToken>,
    },
    /// The transaction that was taken for failed has succeeded. Do: nothing; the batch comes again and what is written is left out.
    #[error(
        "the transaction before has succeeded and its reply was lost; the sink is at {}",
        At(position)
    )]
    Repeated {
        /// The sink's position.
        position: Option<RecordPosition>,
    },
    /// The sink has lost rows that it had confirmed to this ownership: a backup was restored, or another server has taken over that did not
    /// have them yet. Do: end this ownership, by a restart of the worker or by a policy that releases the lease; the next one begins at the
    /// sink's position.
    #[error(
        "the sink is at {}, and had confirmed {}: it has lost rows",
        At(stored),
        At(written)
    )]
    WentBack {
        /// The last position that was confirmed.
        written: Option<RecordPosition>,
        /// The sink's position.
        stored: Option<RecordPosition>,
    },
    /// The row of this ownership is gone, or has a former one's token. Do: as for [`WentBack`](Self::WentBack).
    #[error("the sink has lost the claim of this ownership, which has token {token}")]
    Unclaimed {
        /// The token of this ownership.
        token: FencingToken,
    },
    /// The sink has no position of a shard that has a checkpoint. Do: say by [`SinkPosition::if_empty`] whether the sink is new or has lost
    /// its rows. It also comes when each record so far was set aside by a policy.
    #[error(
        "the sink has no position of the shard, whose checkpoint is {checkpoint}: is it new, or has it lost its rows?"
    )]
    Empty {
        /// The checkpoint when the ownership began.
        checkpoint: RecordPosition,
    },
    /// The processor is given dead letters, which are older than the sink's position. Do: write them with another processor, under a key of
    /// their own.
    #[error("a sink that keeps its position takes no dead letters: they are older than the position")]
    Redrive,
    /// A column has a value that was not written by this library.
    #[error("the column {column} of the sink's position has the value {value:?}, which is none")]
    Unreadable {
        /// The column.
        column: &'static str,
        /// The value, abridged.
        value: String,
    },
}

struct At<'a>(&'a Option<RecordPosition>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(position) => position.fmt(f),
            None => f.write_str("no position"),
        }
    }
}

#[cfg(test)]
mod tests;
