//! The places that an exported document names, as far as they are for a table: of the stream that they were exported of, and of no other.

use std::collections::BTreeMap;

use kcl_core::lease_store::{Lease, ResetPosition};
use kcl_core::types::{LeaseKey, Position, StreamIdentity, Timestamp};

use super::export::{Checkpoint, ExportDocument};

/// The content of a document, as far as it is for this table.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) places: BTreeMap<LeaseKey, ResetPosition>,
    /// Sentences about rows of the document that move nothing.
    pub(crate) left_out: Vec<String>,
}

/// The places of the document, if each is one of a shard of these leases.
pub(crate) fn wanted(
    exported: &ExportDocument,
    leases: &[Lease],
    asked: Option<&StreamIdentity>,
) -> Result<Wanted, String> {
    let rows: BTreeMap<&str, &Lease> = leases.iter().map(|lease| (lease.key.as_str(), lease)).collect();
    let mut wanted = Wanted::default();
    let mut missing = Vec::new();
    for row in &exported.checkpoints {
        let place = place(row)?;
        let Some(lease) = rows.get(row.lease.as_str()) else {
            match is_finished(row, leases) {
                true => wanted.left_out.push(format!(
                    "{} is finished in the file, and here it is cleaned up: there is nothing to do",
                    row.lease
                )),
                false => missing.push(row.lease.as_str()),
            }
            continue;
        };
        is_same_stream(row, lease, asked)?;
        let Some(place) = place else {
            wanted.left_out.push(format!(
                "{} stays: {} without a time is no place that a file can name",
                row.lease, row.checkpoint
            ));
            continue;
        };
        if wanted.places.insert(lease.key.clone(), place).is_some() {
            return Err(format!("it names {} twice", row.lease));
        }
    }
    if !missing.is_empty() {
        let some = missing.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        return Err(format!(
            "the table has no lease for {} of its {} places, such as {some}: the shard is cleaned up or not leased yet, or the file is of another \
             stream ({}). Take out of the file what is not to be reset",
            missing.len(),
            exported.checkpoints.len(),
            streams_of(exported),
        ));
    }
    let named = |lease: &&Lease| {
        exported
            .checkpoints
            .iter()
            .any(|row| row.lease == lease.key.as_str())
    };
    wanted.left_out.extend(
        leases
            .iter()
            .filter(|lease| !named(lease) && !lease.is_ended())
            .map(|lease| {
                format!(
                    "{} is not in the file: it stays, unless a parent of it is read again",
                    lease.key
                )
            }),
    );
    Ok(wanted)
}

/// The place that a row names; `None` for one that needs a time and has none.
fn place(row: &Checkpoint) -> Result<Option<ResetPosition>, String> {
    let position = Position::parse(&row.checkpoint, row.sub_sequence);
    let position = position.map_err(|error| format!("{}: {error}", row.lease))?;
    Ok(match position {
        Position::ShardEnd => Some(ResetPosition::ShardEnd),
        Position::TrimHorizon => Some(ResetPosition::TrimHorizon),
        Position::Record(record) => Some(ResetPosition::After(record)),
        Position::Latest | Position::AtTimestamp => row
            .at_ms
            .map(|at| ResetPosition::AtTimestamp(Timestamp::from_millis(at))),
    })
}

/// Returns `true` if the shard was processed to its end and its lease is deleted since: its children are there.
fn is_finished(row: &Checkpoint, leases: &[Lease]) -> bool {
    let is_parent = |lease: &Lease| {
        let mut parents = lease.parents.iter().map(|parent| lease.key_of_sibling(parent));
        parents.any(|parent| parent.as_str() == row.lease)
    };
    row.checkpoint == Position::ShardEnd.checkpoint_text() && leases.iter().any(is_parent)
}

/// Refuses a row of another stream, and one of which that is not known: its sequence numbers mean nothing there.
fn is_same_stream(row: &Checkpoint, lease: &Lease, asked: Option<&StreamIdentity>) -> Result<(), String> {
    if lease.stream.is_some() {
        // The key names account, stream and creation, and it is the same.
        return Ok(());
    }
    let Some(ours) = lease.identity.as_ref().or(asked) else {
        return Err(format!(
            "the row of {} does not say which stream it is of: name the stream with --stream",
            lease.key
        ));
    };
    let (Some(arn), Some(created)) = (&row.stream, row.stream_created_ms) else {
        return Err(format!(
            "it does not say of which stream {} is: export it again, with --stream where the rows do not name the stream",
            row.lease
        ));
    };
    let theirs = StreamIdentity {
        name: arn.rsplit('/').next().unwrap_or_default().to_owned(),
        arn: arn.clone(),
        created: Timestamp::from_millis(created),
    };
    match ours.is_same_stream(&theirs) {
        true => Ok(()),
        false => Err(format!(
            "its places are of {} created at {}, and {} is of {} created at {}: sequence numbers of one stream mean nothing in another",
            theirs.arn, theirs.created, lease.key, ours.arn, ours.created
        )),
    }
}

fn streams_of(exported: &ExportDocument) -> String {
    let mut streams: Vec<&str> = exported
        .checkpoints
        .iter()
        .filter_map(|row| row.stream.as_deref())
        .collect();
    streams.sort_unstable();
    streams.dedup();
    match streams.as_slice() {
        [] => "it names none".to_owned(),
        [one] => format!("it names {one}"),
        [one, others @ ..] => format!("it names {one} and {} more", others.len()),
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::types::ShardId;

    use super::*;

    const CREATED: i64 = 1_700_000_000_123;

    fn identity(name: &str, created: i64) -> StreamIdentity {
        StreamIdentity {
            name: name.to_owned(),
            arn: format!("arn:aws:kinesis:us-east-1:000000000000:stream/{name}"),
            created: Timestamp::from_millis(created),
        }
    }

    fn lease(number: u32, parents: &[u32]) -> Lease {
        let id = |number: u32| ShardId::new(format!("shardId-{number:012}")).unwrap();
        let mut lease = Lease::unowned(id(number), Position::TrimHorizon);
        lease.parents = parents.iter().map(|parent| id(*parent)).collect();
        lease.identity = Some(identity("trucks", CREATED));
        lease
    }

    fn row(number: u32, checkpoint: &str) -> Checkpoint {
        let identity = identity("trucks", CREATED);
        Checkpoint {
            lease: format!("shardId-{number:012}"),
            stream: Some(identity.arn),
            stream_created_ms: Some(CREATED),
            shard: format!("shardId-{number:012}"),
            checkpoint: checkpoint.to_owned(),
            sub_sequence: 0,
            at_ms: None,
        }
    }

    fn document(checkpoints: Vec<Checkpoint>) -> ExportDocument {
        ExportDocument {
            application: "app".to_owned(),
            time_ms: 0,
            checkpoints,
        }
    }

    fn refusal(rows: Vec<Checkpoint>, leases: &[Lease]) -> String {
        wanted(&document(rows), leases, None).unwrap_err()
    }

    #[test]
    fn file_of_another_stream_is_refused() {
        let of_another = Checkpoint {
            stream: Some(identity("lorries", CREATED).arn),
            ..row(0, "42")
        };
        let text = refusal(vec![of_another], &[lease(0, &[])]);
        assert!(
            text.contains("stream/lorries") && text.contains("stream/trucks"),
            "{text}"
        );
        let of_former = Checkpoint {
            stream_created_ms: Some(CREATED - 60_000),
            ..row(0, "42")
        };
        let text = refusal(vec![of_former], &[lease(0, &[])]);
        assert!(text.contains("created at"), "{text}");
    }

    #[test]
    fn file_without_its_stream_is_refused() {
        let nameless = Checkpoint {
            stream: None,
            stream_created_ms: None,
            ..row(0, "42")
        };
        let text = refusal(vec![nameless], &[lease(0, &[])]);
        assert!(text.contains("export it again"), "{text}");
        let unknown = Lease {
            identity: None,
            ..lease(0, &[])
        };
        let text = refusal(vec![row(0, "42")], std::slice::from_ref(&unknown));
        assert!(text.contains("--stream"), "{text}");
        let asked = identity("trucks", CREATED);
        let told = wanted(&document(vec![row(0, "42")]), &[unknown], Some(&asked)).unwrap();
        assert_eq!(told.places.len(), 1);
    }

    #[test]
    fn shard_without_a_lease_is_refused() {
        let text = refusal(vec![row(0, "42"), row(7, "43")], &[lease(0, &[])]);
        assert!(text.contains("shardId-000000000007"), "{text}");
        // It was read to its end, and its child is there: there is nothing to do.
        let done = wanted(
            &document(vec![row(0, "SHARD_END"), row(1, "42")]),
            &[lease(1, &[0])],
            None,
        )
        .unwrap();
        assert_eq!((done.places.len(), done.left_out.len()), (1, 1), "{done:?}");
        refusal(vec![row(0, "SHARD_END")], &[lease(1, &[])]);
    }

    #[test]
    fn place_with_a_time_is_imported() {
        let timed = Checkpoint {
            at_ms: Some(1_800_000_000_000),
            ..row(0, "AT_TIMESTAMP")
        };
        let leases = [lease(0, &[]), lease(1, &[])];
        let read = wanted(&document(vec![timed, row(1, "LATEST")]), &leases, None).unwrap();
        let time = Timestamp::from_millis(1_800_000_000_000);
        assert_eq!(read.places[&leases[0].key], ResetPosition::AtTimestamp(time));
        assert!(
            read.left_out[0].starts_with("shardId-000000000001 stays"),
            "{read:?}"
        );
    }

    #[test]
    fn lease_that_the_file_lacks_is_named() {
        let leases = [lease(0, &[]), lease(1, &[])];
        let read = wanted(&document(vec![row(0, "42")]), &leases, None).unwrap();
        assert!(
            read.left_out[0].contains("shardId-000000000001 is not in the file"),
            "{read:?}"
        );
    }
}
