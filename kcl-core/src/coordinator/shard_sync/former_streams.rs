//! Decides when the leases of a stream that nobody reads any more may be deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lease::row::{Lease, Version};
use crate::runtime::clock::Moment;
use crate::types::{LeaseKey, StreamKey};

/// Since when the leases of each stream belong to nobody, as far as one leader has seen in one term.
///
/// A lease belongs to somebody while it moves: its owner renews it. An owner's name alone says little, since a worker that died
/// leaves it there, and nobody gives a lease away of a stream that nobody reads; nor does the Java KCL take it from an ended lease.
///
/// A new term begins again: leases are deleted later than the setting says, never earlier.
#[derive(Debug, Clone, Default)]
pub(crate) struct FormerStreams {
    seen: BTreeMap<StreamKey, SeenStream>,
}

/// The observations of a stream that this worker does not read.
#[derive(Debug, Clone)]
struct SeenStream {
    /// Since when none of its leases moved.
    since: Moment,
    /// How its unfinished leases were at the last look.
    versions: BTreeMap<LeaseKey, Version>,
}

impl FormerStreams {
    /// Observes the leases of a scan at `now`, and gives those that may be deleted: of streams that this worker does not read,
    /// and of which no unfinished lease has moved for the whole of `grace`. That must be long enough for any owner to renew.
    pub(crate) fn look<'a>(
        &mut self,
        now: Moment,
        leases: &'a [Lease],
        reads: impl Fn(&Lease) -> bool,
        grace: Duration,
    ) -> Vec<&'a Lease> {
        let mut unread: BTreeMap<&StreamKey, Vec<&Lease>> = BTreeMap::new();
        for lease in leases {
            if let Some(stream) = lease.stream.as_ref().filter(|_| !reads(lease)) {
                unread.entry(stream).or_default().push(lease);
            }
        }
        self.seen.retain(|stream, _| unread.contains_key(stream));
        let mut former = Vec::new();
        for (stream, leases) in unread {
            let unfinished = leases.iter().filter(|lease| !lease.is_ended());
            let versions: BTreeMap<_, _> = unfinished
                .map(|lease| (lease.key.clone(), lease.version()))
                .collect();
            let seen = self.seen.entry(stream.clone()).or_insert_with(|| SeenStream {
                since: now,
                versions: versions.clone(),
            });
            if versions
                .iter()
                .any(|(key, version)| seen.versions.get(key) != Some(version))
            {
                seen.since = now;
            }
            seen.versions = versions;
            if now.saturating_since(seen.since) >= grace {
                former.extend(leases);
            }
        }
        former
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Position, ShardId, WorkerId};

    const GRACE: Duration = Duration::from_secs(60);

    fn lease(stream: Option<&str>, shard: u32, owner: Option<&str>) -> Lease {
        let shard = ShardId::new(format!("shard-{shard}")).unwrap();
        let stream = stream.map(|name| StreamKey::new(format!("1:{name}:5")).unwrap());
        Lease {
            key: match &stream {
                Some(stream) => LeaseKey::of_stream(stream, &shard),
                None => LeaseKey::single_stream(&shard),
            },
            stream,
            owner: owner.map(|owner| WorkerId::new(owner).unwrap()),
            ..Lease::unowned(shard, Position::TrimHorizon)
        }
    }

    fn look(former: &mut FormerStreams, second: u64, leases: &[Lease]) -> Vec<String> {
        let now = Moment::from_origin(Duration::from_secs(second));
        let reads = |lease: &Lease| lease.key.as_str().contains("trucks");
        let found = former.look(now, leases, reads, GRACE);
        found.into_iter().map(|lease| lease.key.to_string()).collect()
    }

    fn renewed(lease: &mut Lease) {
        lease.counter += 1;
    }

    #[test]
    fn leases_of_unread_stream_go_after_grace() {
        let mut leases = [
            lease(Some("planes"), 0, None),
            lease(Some("planes"), 1, Some("a")),
            lease(Some("ships"), 0, None),
            lease(Some("trucks"), 0, None),
            lease(None, 0, None),
        ];
        let mut former = FormerStreams::default();
        for second in [0, 30, 59] {
            renewed(&mut leases[1]);
            assert!(look(&mut former, second, &leases).is_empty());
        }
        renewed(&mut leases[1]);
        assert_eq!(look(&mut former, 60, &leases), ["1:ships:5:shard-0"]);
    }

    #[test]
    fn leases_held_by_dead_worker_go_after_grace() {
        let mut leases = [
            lease(Some("ships"), 0, None),
            lease(Some("ships"), 1, Some("dead")),
        ];
        let mut former = FormerStreams::default();
        assert!(look(&mut former, 0, &leases).is_empty());
        renewed(&mut leases[1]);
        assert!(look(&mut former, 10, &leases).is_empty());
        assert!(look(&mut former, 69, &leases).is_empty());
        assert_eq!(look(&mut former, 70, &leases).len(), 2);
    }

    #[test]
    fn ended_lease_with_owner_is_held_by_nobody() {
        let mut ended = lease(Some("ships"), 0, Some("java"));
        ended.checkpoint = Position::ShardEnd;
        let mut former = FormerStreams::default();
        look(&mut former, 0, &[ended.clone()]);
        assert_eq!(look(&mut former, 60, &[ended]).len(), 1);
    }

    #[test]
    fn only_leases_that_appear_start_grace_anew() {
        let leases = [0, 1].map(|shard| lease(Some("ships"), shard, None));
        let mut former = FormerStreams::default();
        look(&mut former, 0, &leases[..1]);
        look(&mut former, 30, &leases);
        assert!(look(&mut former, 89, &leases).is_empty());
        assert_eq!(look(&mut former, 90, &leases[1..]).len(), 1);
    }

    #[test]
    fn worker_reading_stream_again_starts_grace_anew() {
        let mut held = lease(Some("ships"), 0, Some("a"));
        renewed(&mut held);
        let mut given_up = lease(Some("ships"), 0, None);
        given_up.counter = held.counter;
        let mut former = FormerStreams::default();
        look(&mut former, 0, &[lease(Some("ships"), 0, None)]);
        look(&mut former, 30, &[held]);
        look(&mut former, 40, std::slice::from_ref(&given_up));
        assert!(look(&mut former, 99, std::slice::from_ref(&given_up)).is_empty());
        assert_eq!(look(&mut former, 100, &[given_up]).len(), 1);
    }
}
