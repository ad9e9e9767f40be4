//! Decides when the leases of a stream that nobody reads any more may be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lease::Lease;
use crate::model::StreamKey;
use crate::time::Moment;

/// Since when the leases of each stream belong to nobody, as far as one leader has seen in one tenure.
///
/// A new tenure begins anew: leases are deleted later than the setting says, never earlier.
#[derive(Debug, Clone, Default)]
pub(crate) struct FormerStreams {
    since: BTreeMap<StreamKey, Moment>,
}

impl FormerStreams {
    /// Takes in the leases of a scan at `now`, and gives those that may be deleted: of streams that this worker does not read,
    /// and of which no worker has held a lease for the whole of `grace`.
    pub(crate) fn look<'a>(
        &mut self,
        now: Moment,
        leases: &'a [Lease],
        reads: impl Fn(&Lease) -> bool,
        grace: Duration,
    ) -> Vec<&'a Lease> {
        let of_streams = |lease: &&'a Lease| lease.stream.is_some() && !reads(lease);
        let held: BTreeSet<&StreamKey> = leases
            .iter()
            .filter(of_streams)
            .filter(|lease| lease.owner.is_some())
            .filter_map(|lease| lease.stream.as_ref())
            .collect();
        let former: BTreeSet<&StreamKey> = leases
            .iter()
            .filter(of_streams)
            .filter_map(|lease| lease.stream.as_ref())
            .filter(|stream| !held.contains(stream))
            .collect();
        self.since.retain(|stream, _| former.contains(stream));
        for stream in &former {
            self.since.entry((*stream).clone()).or_insert(now);
        }
        leases
            .iter()
            .filter(|lease| {
                let since = lease.stream.as_ref().and_then(|stream| self.since.get(stream));
                since.is_some_and(|since| now.saturating_since(*since) >= grace)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LeaseKey, Position, ShardId, WorkerId};

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

    #[test]
    fn only_the_leases_of_a_stream_that_nobody_reads_go_and_only_after_the_grace() {
        let leases = [
            lease(Some("trucks"), 0, None),
            lease(Some("ships"), 0, None),
            lease(Some("planes"), 0, None),
            lease(Some("planes"), 1, Some("a")),
            lease(None, 0, None),
        ];
        let mut former = FormerStreams::default();
        for second in [0, 30, 59] {
            assert!(look(&mut former, second, &leases).is_empty());
        }
        assert_eq!(look(&mut former, 60, &leases), ["1:ships:5:shard-0"]);
    }

    #[test]
    fn a_worker_that_reads_the_stream_again_starts_the_grace_anew() {
        let mut former = FormerStreams::default();
        look(&mut former, 0, &[lease(Some("ships"), 0, None)]);
        look(&mut former, 30, &[lease(Some("ships"), 0, Some("a"))]);
        look(&mut former, 40, &[lease(Some("ships"), 0, None)]);
        assert!(look(&mut former, 99, &[lease(Some("ships"), 0, None)]).is_empty());
        assert_eq!(look(&mut former, 100, &[lease(Some("ships"), 0, None)]).len(), 1);
    }
}
