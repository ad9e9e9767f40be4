//! Refuses leases of another stream: positions in them would be nonsense here.

use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::row::Lease;
use crate::types::{LeaseKey, StreamIdentity};

/// A lease row belongs to something else. Nothing is read and nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    /// The row is of a stream with another name or ARN.
    #[error(
        "the lease {key} belongs to the stream {} ({}), and this application reads {} ({}): use another application name, or delete the old leases",
        found.name, found.arn, expected.name, expected.arn
    )]
    OtherStream {
        /// The key of the row.
        key: LeaseKey,
        /// The stream of the row.
        found: Box<StreamIdentity>,
        /// The stream to read.
        expected: Box<StreamIdentity>,
    },
    /// The row is of a stream of this name that was deleted and created again since.
    #[error(
        "the lease {key} belongs to the stream {} as created at {} ms since 1970, and this one was created at {} ms: the stream was deleted and created again, so its positions mean nothing; use another application name, or delete the old leases",
        expected.arn, found.created.as_millis(), expected.created.as_millis()
    )]
    OtherCreation {
        /// The key of the row.
        key: LeaseKey,
        /// The stream of the row.
        found: Box<StreamIdentity>,
        /// The stream to read.
        expected: Box<StreamIdentity>,
    },
    /// The table was written by an application that reads many streams, and this one reads one.
    #[error(
        "the lease {key} is one of many streams, and this application is set up for one: list its streams in the settings, or use another application name"
    )]
    ManyStreams {
        /// The key of the row.
        key: LeaseKey,
    },
    /// The table was written by an application that reads one stream, and this one reads many.
    #[error(
        "the lease {key} is that of an application that reads one stream, and this one is set up for many: set it up for one, or use another application name"
    )]
    OneStream {
        /// The key of the row.
        key: LeaseKey,
    },
}

/// Checks that the leases of the table are those of this stream, or of other streams of the same application.
///
/// A row without identity, as Java writes it, is accepted; its first renewal by a worker of ours fills it in.
///
/// # Errors
///
/// The first [`Mismatch`] in the order given.
pub(crate) fn check_identity<'a>(
    leases: impl IntoIterator<Item = &'a Lease>,
    identity: &StreamIdentity,
    keying: &LeaseKeyScheme,
) -> Result<(), Mismatch> {
    leases
        .into_iter()
        .try_for_each(|lease| check(lease, identity, keying))
}

/// Checks that the lease is one of an application that reads many streams, whichever stream it is of.
pub(crate) fn check_keyed_by_stream(lease: &Lease) -> Result<(), Mismatch> {
    match lease.stream {
        Some(_) => Ok(()),
        None => Err(Mismatch::OneStream {
            key: lease.key.clone(),
        }),
    }
}

fn check(lease: &Lease, identity: &StreamIdentity, keying: &LeaseKeyScheme) -> Result<(), Mismatch> {
    let key = lease.key.clone();
    match keying {
        LeaseKeyScheme::SingleStream if lease.stream.is_some() || key.as_str() != lease.shard.as_str() => {
            return Err(Mismatch::ManyStreams { key });
        }
        LeaseKeyScheme::MultiStream(_) if lease.stream.is_none() => return check_keyed_by_stream(lease),
        LeaseKeyScheme::MultiStream(_) if !keying.owns(lease) => return Ok(()),
        LeaseKeyScheme::SingleStream | LeaseKeyScheme::MultiStream(_) => {}
    }
    let Some(found) = lease.identity.clone().map(Box::new) else {
        return Ok(());
    };
    let expected = Box::new(identity.clone());
    if (&found.name, &found.arn) != (&expected.name, &expected.arn) {
        return Err(Mismatch::OtherStream { key, found, expected });
    }
    if !found.is_same_stream(&expected) {
        return Err(Mismatch::OtherCreation { key, found, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::shard_graph::testing::{id, identity};
    use crate::types::{Position, StreamKey, Timestamp};

    fn lease(identity: Option<StreamIdentity>) -> Lease {
        let mut lease = Lease::unowned(id(1), Position::TrimHorizon);
        lease.identity = identity;
        lease
    }

    fn many(stream: &str, identity: Option<StreamIdentity>) -> Lease {
        let keying = LeaseKeyScheme::MultiStream(StreamKey::new(stream).unwrap());
        let mut lease = lease(identity);
        lease.key = keying.key(&lease.shard).unwrap();
        lease.stream = keying.stream().cloned();
        lease
    }

    fn check_one(lease: &Lease) -> Result<(), Mismatch> {
        check_identity([lease], &identity(), &LeaseKeyScheme::SingleStream)
    }

    #[test]
    fn rows_of_this_stream_and_java_are_accepted() {
        let leases = [lease(Some(identity())), lease(None)];
        assert_eq!(
            check_identity(&leases, &identity(), &LeaseKeyScheme::SingleStream),
            Ok(())
        );
    }

    #[test]
    fn row_of_another_stream_is_refused_naming_both() {
        let mut other = identity();
        other.arn.push_str("-old");
        let message = check_one(&lease(Some(other))).unwrap_err().to_string();
        assert!(message.contains("stream/trucks-old)"), "{message}");
        assert!(message.contains("stream/trucks)"), "{message}");
    }

    #[test]
    fn row_of_earlier_stream_is_refused_naming_times() {
        let mut other = identity();
        other.created = Timestamp::from_millis(5);
        let message = check_one(&lease(Some(other))).unwrap_err().to_string();
        assert!(
            message.contains(" 5 ms") && message.contains(" 1000000 ms"),
            "{message}"
        );
    }

    #[test]
    fn one_stream_and_many_share_no_table() {
        let stream = "111122223333:trucks:1000";
        assert!(matches!(
            check_one(&many(stream, None)),
            Err(Mismatch::ManyStreams { .. })
        ));
        let keying = LeaseKeyScheme::MultiStream(StreamKey::new(stream).unwrap());
        let outcome = check_identity([&lease(None)], &identity(), &keying);
        assert!(matches!(outcome, Err(Mismatch::OneStream { .. })));
    }

    #[test]
    fn rows_of_own_other_streams_are_no_mismatch() {
        let mut other = identity();
        other.arn.push_str("-ships");
        let keying = LeaseKeyScheme::MultiStream(StreamKey::new("111122223333:trucks:1000").unwrap());
        let leases = [
            many("111122223333:ships:2000", Some(other)),
            many("111122223333:trucks:1000", Some(identity())),
        ];
        assert_eq!(check_identity(&leases, &identity(), &keying), Ok(()));
    }
}
