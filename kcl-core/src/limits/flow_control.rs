//! How fast shards are read, as the operator of the worker sets it: pauses and rates, for a shard, a stream or the whole worker.
//!
//! A paused shard keeps its lease, and no other worker reads it because of the pause. It may still be moved for the balance when workers
//! come, and the worker that it is moved to knows of no pause: to stop reading everywhere, pause every worker.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::futures::Notified;

use crate::runtime::clock::Moment;
use crate::runtime::watched::Watched;
use crate::types::{LeaseKey, Rate};

/// The shards that a pause or a rate is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowScope {
    /// All shards that the worker holds, now or later.
    Worker,
    /// The shards of the stream with this name, or with this address where two streams have one name.
    Stream(String),
    /// One shard, until this worker holds its lease no more: if it gets the lease again, it reads it as any other. A pause or rate that is set before it
    /// holds the lease counts from when it does.
    Shard(LeaseKey),
}

/// The setter of a pause or a rate, and for which shards. An operator's orders and the calls of the application do not undo each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlowKey {
    /// The application, through its [`FlowHandle`].
    Handle(FlowScope),
    /// The orders in the row of this lease.
    Orders(LeaseKey),
}

/// The obstacle that keeps a shard from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// It is paused, until somebody says otherwise.
    Paused,
    /// The records of late are enough until then.
    Until(Moment),
}

/// The pauses and rates of one worker.
#[derive(Debug, Default)]
pub(crate) struct FlowControl {
    scopes: Watched<BTreeMap<FlowKey, FlowLimit>>,
    /// Whether there is any. Most workers have none, and readers look here first.
    in_use: AtomicBool,
    /// The word that a shard is tried again, and that one goes on behind a gap.
    resumed: ScopeSignal,
    gaps_accepted: ScopeSignal,
}

/// A word of the operator to the shards of a scope, for those that wait for it.
#[derive(Debug, Default)]
struct ScopeSignal(Watched<BTreeMap<FlowKey, u64>>);

impl ScopeSignal {
    fn give(&self, scope: FlowKey) {
        self.0.modify(|times| *times.entry(scope).or_default() += 1);
    }

    /// Returns a future that is ready once the word was given to one of these scopes after this call.
    fn given<'a>(&'a self, of: &'a [FlowKey]) -> impl Future<Output = ()> + 'a {
        let count =
            |times: &BTreeMap<FlowKey, u64>| -> u64 { of.iter().filter_map(|scope| times.get(scope)).sum() };
        let before = self.0.read(count);
        self.0
            .wait_for(move |times| (count(times) > before).then_some(()))
    }

    fn forget(&self, scope: &FlowKey) {
        self.0.modify_quietly(|times| times.remove(scope));
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct FlowLimit {
    paused: bool,
    rate: Option<Rate>,
    /// Until when what was read is enough.
    enough_until: Option<Moment>,
}

impl FlowControl {
    pub(crate) fn pause(&self, scope: FlowKey) {
        self.change(scope, |brake| brake.paused = true);
    }

    pub(crate) fn resume(&self, scope: FlowKey) {
        self.set_paused(scope.clone(), false);
        self.try_again(scope);
    }

    /// Pauses the scope, or ends its pause, and nothing else.
    pub(crate) fn set_paused(&self, scope: FlowKey, paused: bool) {
        self.change(scope, |brake| brake.paused = paused);
    }

    /// The shards of the scope that are held after a failure are tried again.
    pub(crate) fn try_again(&self, scope: FlowKey) {
        self.resumed.give(scope);
    }

    /// Returns a future that is ready once one of these scopes was resumed after this call.
    pub(crate) fn resumed<'a>(&'a self, of: &'a [FlowKey]) -> impl Future<Output = ()> + 'a {
        self.resumed.given(of)
    }

    /// Ends the pause and the rate of this very scope.
    pub(crate) fn forget(&self, scope: &FlowKey) {
        self.scopes.modify(|scopes| {
            scopes.remove(scope);
            self.note_use(scopes);
        });
        self.resumed.forget(scope);
        self.gaps_accepted.forget(scope);
    }

    /// The shards in this scope that are held at a gap go on.
    pub(crate) fn accept_gap(&self, scope: FlowKey) {
        self.gaps_accepted.give(scope);
    }

    /// Returns a future that is ready once a gap was accepted in one of these scopes after this call.
    pub(crate) fn gap_accepted<'a>(&'a self, of: &'a [FlowKey]) -> impl Future<Output = ()> + 'a {
        self.gaps_accepted.given(of)
    }

    pub(crate) fn limit(&self, scope: FlowKey, rate: Option<Rate>) {
        self.change(scope, |brake| {
            brake.rate = rate;
            brake.enough_until = None;
        });
    }

    /// Returns the obstacle that keeps a shard in these scopes from being read, if there is one.
    pub(crate) fn hold(&self, of: &[FlowKey], now: Moment) -> Option<Blocked> {
        self.read(|scopes| {
            let brakes = of.iter().filter_map(|scope| scopes.get(scope));
            if brakes.clone().any(|brake| brake.paused) {
                return Some(Blocked::Paused);
            }
            let until = brakes.filter_map(|brake| brake.enough_until).max();
            until.filter(|until| now < *until).map(Blocked::Until)
        })
    }

    /// The most records that one fetch may bring in these scopes: no more than a second's worth.
    pub(crate) fn most(&self, of: &[FlowKey]) -> Option<u32> {
        self.read(|scopes| {
            let rates = of.iter().filter_map(|scope| scopes.get(scope)?.rate?.records);
            rates.map(NonZeroU32::get).min()
        })
    }

    /// The most bytes that one fetch is to bring in these scopes: no more than a second's worth.
    pub(crate) fn most_bytes(&self, of: &[FlowKey]) -> Option<u64> {
        self.read(|scopes| {
            let rates = of.iter().filter_map(|scope| scopes.get(scope)?.rate?.kib);
            rates.map(|kib| u64::from(kib.get()) * 1024).min()
        })
    }

    /// So much was read at `now`.
    pub(crate) fn took(&self, of: &[FlowKey], records: usize, bytes: usize, now: Moment) {
        if !self.in_use.load(Ordering::SeqCst) {
            return;
        }
        // Who is held up by this waits for a moment, and looks again then.
        self.scopes.modify_quietly(|scopes| {
            for scope in of {
                if let Some(brake) = scopes.get_mut(scope)
                    && let Some(rate) = brake.rate
                {
                    let from = brake.enough_until.map_or(now, |until| until.max(now));
                    brake.enough_until = Some(from + rate.time_for(records, bytes));
                }
            }
        });
    }

    /// Returns at the next change of a pause or a rate after this call, even if that comes before the first poll.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.scopes.changed()
    }

    fn change(&self, scope: FlowKey, change: impl FnOnce(&mut FlowLimit)) {
        self.scopes.modify(|scopes| {
            let brake = scopes.entry(scope.clone()).or_default();
            change(brake);
            // What holds nothing is not remembered.
            if !brake.paused && brake.rate.is_none() {
                scopes.remove(&scope);
            }
            self.note_use(scopes);
        });
    }

    /// Looks at the pauses and rates, if there are any.
    fn read<T>(&self, look: impl FnOnce(&BTreeMap<FlowKey, FlowLimit>) -> Option<T>) -> Option<T> {
        match self.in_use.load(Ordering::SeqCst) {
            true => self.scopes.read(look),
            false => None,
        }
    }

    /// Called with each change, before the waiters are woken.
    fn note_use(&self, scopes: &BTreeMap<FlowKey, FlowLimit>) {
        self.in_use.store(!scopes.is_empty(), Ordering::SeqCst);
    }
}

/// Pauses and limits the reading of a running worker. Clones act on the same one.
///
/// ```
/// # use kcl_core as kinesis_client;
/// # use std::num::NonZeroU32;
/// # use kcl_core::WorkerHandle;
/// use kinesis_client::{FlowScope, Rate};
///
/// # fn maintenance(worker: &WorkerHandle) {
/// worker.flow().pause(FlowScope::Worker);
/// // ... the database is back ...
/// worker.flow().limit(FlowScope::Worker, Some(Rate { records: NonZeroU32::new(500), ..Rate::default() }));
/// worker.flow().resume(FlowScope::Worker);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FlowHandle {
    brakes: Arc<FlowControl>,
}

impl FlowHandle {
    pub(crate) fn new(brakes: Arc<FlowControl>) -> Self {
        Self { brakes }
    }

    /// Reads no more in this scope: no further batch is offered, and none is fetched. A callback that runs goes on, and leases are kept,
    /// for however long. Where batches are [gathered](crate::settings::Batching), what was gathered is offered first. Status shows the wait
    /// as [`Paused`](crate::status::WaitReason::Paused).
    pub fn pause(&self, scope: FlowScope) {
        self.brakes.pause(FlowKey::Handle(scope));
    }

    /// Ends the pause of this very scope. A shard goes on when it is paused in no scope. One of the scope that is held after a failure is tried
    /// again at once, paused or not: also where the error policy said to [hold](crate::processor::Decision::Hold) it.
    pub fn resume(&self, scope: FlowScope) {
        self.brakes.resume(FlowKey::Handle(scope));
    }

    /// Lets the shards of this scope that are held at a gap go on behind it: records that retention took are lost to the application. A gap
    /// that a shard meets later holds it again. It has an effect with [`RetentionGap::Hold`](crate::settings::RetentionGap::Hold) only, and on this
    /// worker only.
    pub fn accept_gap(&self, scope: FlowScope) {
        self.brakes.accept_gap(FlowKey::Handle(scope));
    }

    /// Reads no faster than this in this scope; `None` ends the limit. Where several scopes limit a shard, all of them do.
    /// A batch holds at most what may be read in a second, by the size of the records so far, and one record in any case. Status shows the wait as [`RateLimit`](crate::status::WaitReason::RateLimit).
    pub fn limit(&self, scope: FlowScope, rate: Option<Rate>) {
        self.brakes.limit(FlowKey::Handle(scope), rate);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_immediate;
    use proptest::prelude::*;

    use std::time::Duration;

    use super::*;
    use crate::types::ShardId;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn scopes(number: u32) -> [FlowKey; 3] {
        let shard = ShardId::new(format!("shardId-{number:012}")).unwrap();
        let stream = FlowScope::Stream("trucks".to_owned());
        [
            FlowKey::Handle(FlowScope::Worker),
            FlowKey::Handle(stream),
            FlowKey::Handle(FlowScope::Shard(LeaseKey::single_stream(&shard))),
        ]
    }

    #[test]
    fn shard_goes_on_once_no_scope_is_paused() {
        let brakes = FlowControl::default();
        let [worker, stream, _] = scopes(0);
        brakes.pause(worker.clone());
        brakes.pause(stream.clone());
        assert_eq!(brakes.hold(&scopes(0), at(0)), Some(Blocked::Paused));
        brakes.resume(worker);
        assert_eq!(brakes.hold(&scopes(0), at(0)), Some(Blocked::Paused));
        brakes.resume(stream);
        assert_eq!(brakes.hold(&scopes(0), at(0)), None);
        assert!(brakes.scopes.read(BTreeMap::is_empty));
    }

    #[tokio::test]
    async fn gap_is_accepted_for_scopes_that_wait() {
        let (flow, first) = (FlowControl::default(), scopes(0));
        let [worker, _, other] = scopes(1);
        flow.accept_gap(worker.clone());
        let mut accepted = std::pin::pin!(flow.gap_accepted(&first));
        assert!(
            poll_immediate(&mut accepted).await.is_none(),
            "that was before it"
        );
        flow.accept_gap(other);
        assert!(poll_immediate(&mut accepted).await.is_none());
        flow.accept_gap(worker);
        assert!(poll_immediate(&mut accepted).await.is_some());
    }

    #[test]
    fn the_shards_of_a_scope_share_its_rate() {
        let brakes = FlowControl::default();
        let rate = Rate {
            records: NonZeroU32::new(10),
            ..Rate::default()
        };
        brakes.limit(FlowKey::Handle(FlowScope::Worker), Some(rate));
        assert_eq!(brakes.most(&scopes(0)), Some(10));
        brakes.took(&scopes(0), 5, 0, at(1000));
        assert_eq!(brakes.hold(&scopes(1), at(1000)), Some(Blocked::Until(at(1500))));
        brakes.took(&scopes(1), 10, 0, at(1000));
        assert_eq!(brakes.hold(&scopes(0), at(2499)), Some(Blocked::Until(at(2500))));
        assert_eq!(brakes.hold(&scopes(0), at(2500)), None);
        brakes.limit(FlowKey::Handle(FlowScope::Worker), None);
        assert_eq!(brakes.hold(&scopes(0), at(0)), None);
    }

    proptest! {
        /// A reader that waits as long as it must reads no more on average than the rate, but for the last batch.
        #[test]
        fn no_more_is_read_than_the_rate(
            records in proptest::option::of(1_u32..1000), kib in proptest::option::of(1_u32..1000),
            batches in proptest::collection::vec((0_usize..2000, 0_usize..5_000_000), 1..30),
        ) {
            let brakes = FlowControl::default();
            let rate = Rate { records: records.and_then(NonZeroU32::new), kib: kib.and_then(NonZeroU32::new) };
            brakes.limit(FlowKey::Handle(FlowScope::Worker), Some(rate));
            let of = [FlowKey::Handle(FlowScope::Worker)];
            let (mut now, mut read, mut size) = (at(0), 0, 0);
            for (records, bytes) in batches {
                if let Some(Blocked::Until(until)) = brakes.hold(&of, now) {
                    now = until;
                }
                // A nanosecond is cut off each time.
                let seconds = now.saturating_since(at(0)).as_secs_f64() + 1e-6;
                if let Some(rate) = rate.records {
                    prop_assert!(f64::from(read as u32) <= f64::from(rate.get()) * seconds + 1e-3);
                }
                if let Some(rate) = rate.kib {
                    prop_assert!(size as f64 <= f64::from(rate.get()) * 1024.0 * seconds + 1.0);
                }
                brakes.took(&of, records, bytes, now);
                read += records;
                size += bytes;
            }
        }
    }
}
