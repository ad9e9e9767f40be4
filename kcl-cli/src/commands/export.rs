//! `export`: the place from which each shard is read, as a document that `import` takes back.

use kcl_core::lease_store::{Lease, ResetPosition, Scan};
use kcl_core::source::StreamSource as _;
use kcl_core::types::{ApplicationName, Position, StreamIdentity, Timestamp};
use serde::{Deserialize, Serialize};

use super::watch::repeat;
use crate::arguments::{CommonOptions, LookOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::{Looker, stream_of};
use crate::output::{Printer, Style, column, complain};
use crate::views::{dash, text_or_dash};

/// The document of `kcl export`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExportDocument {
    pub(crate) application: String,
    pub(crate) time_ms: i64,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

/// One lease in the document of `kcl export`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) lease: String,
    /// The ARN of the stream, or its name where no more is known.
    pub(crate) stream: Option<String>,
    /// When the stream was created, in milliseconds since 1970: a stream made again under its name is another one.
    pub(crate) stream_created_ms: Option<i64>,
    pub(crate) shard: String,
    /// A sequence number, or a sentinel.
    pub(crate) checkpoint: String,
    #[serde(default)]
    pub(crate) sub_sequence: u64,
    /// The time that AT_TIMESTAMP means, in milliseconds since 1970.
    pub(crate) at_ms: Option<i64>,
}

impl Checkpoint {
    /// The place from which the lease is read. Of a stream that the row does not name this one is written, as far as it is known.
    fn of(lease: &Lease, named: Option<&str>, asked: Option<&StreamIdentity>) -> Self {
        let (position, time) = match is_place(lease) {
            true => lease.reading_from().checkpoint(),
            false => (lease.checkpoint.clone(), None),
        };
        // A key that names the stream names its creation as well.
        let identity = lease
            .identity
            .as_ref()
            .or(asked.filter(|_| lease.stream.is_none()));
        Self {
            lease: lease.key.to_string(),
            stream: match identity {
                Some(identity) if !identity.arn.is_empty() => Some(identity.arn.clone()),
                _ => stream_of(lease, named.filter(|_| lease.stream.is_none())),
            },
            stream_created_ms: identity.map(|identity| identity.created.as_millis()),
            shard: lease.shard.to_string(),
            checkpoint: position.checkpoint_text().to_owned(),
            sub_sequence: position.sub_sequence(),
            at_ms: time.map(Timestamp::as_millis),
        }
    }

    fn place(&self) -> String {
        match self.at_ms {
            Some(at) => format!("{} {}", self.checkpoint, Timestamp::from_millis(at)),
            None => self.checkpoint.clone(),
        }
    }
}

/// Returns `true` if the row alone says where the shard is read from. `LATEST` and `AT_TIMESTAMP` need a time, which a row of Java does not
/// hold.
fn is_place(lease: &Lease) -> bool {
    match lease.checkpoint {
        Position::Latest | Position::AtTimestamp => {
            matches!(lease.reading_from(), ResetPosition::AtTimestamp(_))
        }
        Position::Record(_) | Position::TrimHorizon | Position::ShardEnd => true,
    }
}

/// The sentences about rows whose places are not in the document, or are none.
fn left_out(scan: &Scan) -> Vec<String> {
    let nowhere = scan.leases.iter().filter(|lease| !is_place(lease)).map(|lease| {
        format!(
            "{} is at {}, and its row holds no time for it: an import leaves it as it is. Export again once its owner has checkpointed",
            lease.key,
            lease.checkpoint.checkpoint_text()
        )
    });
    let unreadable = scan.undecodable.iter().map(|row| {
        format!(
            "the row {} cannot be read, and is not exported: {}",
            row.key, row.problem
        )
    });
    nowhere.chain(unreadable).collect()
}

/// The identity of the stream that was named, where a row lacks one.
pub(crate) async fn identity_of(
    connection: &Connection,
    named: Option<&str>,
    leases: &[Lease],
) -> Result<Option<StreamIdentity>, Failure> {
    let is_nameless = |lease: &Lease| lease.identity.is_none() && lease.stream.is_none();
    match named {
        Some(named) if leases.iter().any(is_nameless) => Ok(Some(connection.stream(named).identity().await?)),
        _ => Ok(None),
    }
}

/// The places of all leases, in the order of their keys.
pub(crate) async fn document(
    connection: &Connection,
    application: &ApplicationName,
    scan: &Scan,
    named: Option<&str>,
) -> Result<ExportDocument, Failure> {
    let asked = identity_of(connection, named, &scan.leases).await?;
    let leases = scan.leases.iter();
    let mut checkpoints: Vec<Checkpoint> = leases
        .map(|lease| Checkpoint::of(lease, named, asked.as_ref()))
        .collect();
    checkpoints.sort_by(|one, other| one.lease.cmp(&other.lease));
    Ok(ExportDocument {
        application: application.to_string(),
        time_ms: connection.now().as_millis(),
        checkpoints,
    })
}

/// `kcl export`.
pub(crate) async fn export(
    connection: &Connection,
    common: &CommonOptions,
    options: &LookOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let looker = Looker::open(connection, common.table.as_deref(), options).await?;
    repeat(connection, common.watch, async || {
        let scan = looker.scan().await?;
        let named = options.stream.as_deref();
        let document = document(connection, &options.application, &scan, named).await?;
        let left_out = left_out(&scan);
        for sentence in &left_out {
            complain(sentence);
        }
        let columns = [
            column("LEASE", |row: &Checkpoint| row.lease.clone()),
            column("CHECKPOINT", Checkpoint::place),
            column("SUB-SEQUENCE", |row: &Checkpoint| match row.sub_sequence {
                0 => dash(),
                sub => sub.to_string(),
            })
            .number(),
            column("STREAM", |row: &Checkpoint| text_or_dash(row.stream.as_ref())).styled(|_| Style::Dim),
        ];
        Ok((
            printer.rows("", &document.checkpoints, &columns, &document),
            Exit::found(!left_out.is_empty()),
        ))
    })
    .await
}

/// A document with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample() -> ExportDocument {
    let shard = kcl_core::types::ShardId::new("shardId-000000000000").unwrap();
    let lease = Lease::unowned(shard, Position::Latest);
    ExportDocument {
        application: "app".to_owned(),
        time_ms: 0,
        checkpoints: vec![Checkpoint::of(&lease, None, None)],
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::types::ShardId;

    use super::*;

    fn lease(number: u32, checkpoint: Position) -> Lease {
        Lease::unowned(ShardId::new(format!("shardId-{number:012}")).unwrap(), checkpoint)
    }

    #[test]
    fn place_with_a_time_is_exported() {
        let time = Timestamp::from_millis(1_800_000_000_000);
        let reset = Lease {
            reset_at: Some(time),
            ..lease(0, Position::AtTimestamp)
        };
        let pinned = Lease {
            pinned_start: Some(time),
            ..lease(1, Position::Latest)
        };
        let told = Lease {
            latest_at: Some(time),
            ..lease(2, Position::Latest)
        };
        for lease in [&reset, &pinned, &told] {
            let row = Checkpoint::of(lease, None, None);
            assert_eq!(
                (row.checkpoint.as_str(), row.at_ms),
                ("AT_TIMESTAMP", Some(1_800_000_000_000))
            );
        }
        let scan = Scan {
            leases: vec![reset, pinned, told],
            ..Scan::default()
        };
        assert!(left_out(&scan).is_empty());
    }

    #[test]
    fn index_in_an_aggregate_is_exported() {
        let row = Checkpoint::of(&lease(0, Position::parse("42", 3).unwrap()), None, None);
        assert_eq!((row.checkpoint.as_str(), row.sub_sequence), ("42", 3));
    }

    #[test]
    fn row_without_its_time_is_named() {
        let scan = Scan {
            leases: vec![
                lease(0, Position::Latest),
                lease(1, Position::AtTimestamp),
                lease(2, Position::TrimHorizon),
            ],
            ..Scan::default()
        };
        let sentences = left_out(&scan);
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert!(
            sentences[0].starts_with("shardId-000000000000 is at LATEST"),
            "{sentences:?}"
        );
        let row = Checkpoint::of(&scan.leases[0], None, None);
        assert_eq!(
            (row.checkpoint.as_str(), row.at_ms),
            ("LATEST", None),
            "the row is not dropped"
        );
    }
}
