use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;

use std::time::Duration;

use super::*;
use crate::lease::change::{Expect, LeaseChange, apply};
use crate::lease::client::StoreClient;
use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::store::LeaseStore;
use crate::lease::store::{Capabilities, Preparation, Scan};
use crate::lease::worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome,
};
use crate::metrics::Metrics;
use crate::runtime::clock::{Clock, ClockExt as _, TokioClock};
use crate::runtime::rng::Rng;
use crate::runtime::task_scope::TaskScope;
use crate::settings::timing::Timing;
use crate::source::shard_graph::testing::{id, identity, shard};
use crate::source::{
    PageToken, RecordStream, Shard, ShardPage, SourceError, SourceErrorKind, StartPosition, StreamSource,
};
use crate::types::{Incarnation, StreamIdentity, StreamKey, WorkerId};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A stream that lists one shard per page and fails as often as it is set to.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    shards: Vec<Shard>,
    failures: Mutex<Vec<SourceErrorKind>>,
    filters: Mutex<Vec<ShardFilter>>,
}

#[async_trait]
impl StreamSource for Stream {
    fn name(&self) -> &str {
        "trucks"
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        Ok(identity())
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        if let Some(kind) = self.failures.lock().unwrap().pop() {
            return Err(SourceError::new(kind, "told to fail"));
        }
        self.filters.lock().unwrap().push(filter);
        let at: usize = page.map_or(0, |token| token.0.parse().unwrap());
        Ok(ShardPage {
            shards: self.shards.get(at).cloned().into_iter().collect(),
            next: (at + 1 < self.shards.len()).then(|| PageToken((at + 1).to_string())),
            service_time: NOW,
        })
    }

    async fn open(&self, _: &ShardId, _: StartPosition) -> Result<Box<dyn RecordStream>, SourceError> {
        Err(SourceError::new(
            SourceErrorKind::NotFound,
            "no shard is there to be read",
        ))
    }
}

/// A lease table whose leases can be read and changed.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Mutex<BTreeMap<LeaseKey, Lease>>,
    pub(crate) order: Mutex<Vec<LeaseKey>>,
    pub(crate) read_takes: Duration,
    /// Rows that are there and cannot be read.
    pub(crate) unreadable: BTreeSet<ShardId>,
    /// Whether no write is made, and none is answered.
    pub(crate) loses_writes: bool,
    /// How many writes were sent.
    pub(crate) writes: Mutex<u32>,
}

impl Table {
    /// Fails if the row that stands in the way of the write cannot be read.
    fn try_to_decode(&self, key: &LeaseKey) -> Result<(), StoreError> {
        if self.unreadable.iter().any(|shard| shard.as_str() == key.as_str()) {
            return Err(StoreError::unknown(
                StoreErrorKind::Data,
                "the counter is missing",
            ));
        }
        Ok(())
    }
}

fn not_part_of_a_sync<T>() -> Result<T, StoreError> {
    Err(StoreError::definite(
        StoreErrorKind::Invalid,
        "not part of a sync",
    ))
}

#[async_trait]
impl LeaseStore for Table {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            owner_index: false,
            refusal_shows_row: false,
        }
    }

    async fn prepare(&self, _: &Preparation) -> Result<(), StoreError> {
        not_part_of_a_sync()
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        not_part_of_a_sync()
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        TokioClock::new().sleep(self.read_takes).await;
        self.try_to_decode(key)?;
        Ok(self.rows.lock().unwrap().get(key).cloned())
    }

    async fn owned_by(&self, _: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        not_part_of_a_sync()
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        tokio::task::yield_now().await;
        *self.writes.lock().unwrap() += 1;
        if self.loses_writes {
            return Err(StoreError::unknown(StoreErrorKind::Unavailable, "lost"));
        }
        self.try_to_decode(key)?;
        let mut rows = self.rows.lock().unwrap();
        if !expect.holds(rows.get(key)) {
            let current = rows.get(key).cloned().map(Box::new);
            return Ok(Outcome::Refused { current });
        }
        let after = match (rows.remove(key), change) {
            (None, LeaseChange::Create(lease)) => (**lease).clone(),
            (None, _) => return Ok(Outcome::Refused { current: None }),
            (Some(row), LeaseChange::Delete) => return Ok(Outcome::Applied(Box::new(row))),
            (Some(row), change) => apply(&row, change, incarnation),
        };
        rows.insert(key.clone(), after.clone());
        self.order.lock().unwrap().push(key.clone());
        Ok(Outcome::Applied(Box::new(after)))
    }

    async fn change_worker(&self, _: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        not_part_of_a_sync()
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        not_part_of_a_sync()
    }

    async fn change_lock(&self, _: &LockExpect, _: &LockChange) -> Result<LockOutcome, StoreError> {
        not_part_of_a_sync()
    }
}

/// The client of a worker with this table.
pub(crate) fn client(table: &Arc<Table>) -> StoreClient {
    StoreClient::new(
        Arc::<Table>::clone(table),
        Arc::new(TokioClock::new()),
        TaskScope::new(),
        Incarnation::from_random_bytes([1; 16]),
        Timing::of(Duration::from_secs(60)).calls,
        Metrics::register(None, "sync", crate::metrics::MetricsLevel::default()),
    )
}

async fn sync(
    stream: &Stream,
    table: &Arc<Table>,
    scanned: &[Lease],
    initial: InitialPosition,
) -> Result<SyncReport, SyncError> {
    sync_with(stream, table, scanned, &BTreeSet::new(), initial).await
}

/// The same with a scan that could not read these rows.
async fn sync_with(
    stream: &Stream,
    table: &Arc<Table>,
    scanned: &[Lease],
    unreadable: &BTreeSet<ShardId>,
    initial: InitialPosition,
) -> Result<SyncReport, SyncError> {
    let clock = TokioClock::new();
    let mut rng = Rng::from_seed(1);
    let request = SyncRequest {
        leases: scanned,
        unreadable,
        initial,
        keying: &LeaseKeyScheme::SingleStream,
        identity: &identity(),
        deadline: clock.now() + Duration::from_secs(20),
    };
    let tools = SyncTools {
        source: stream,
        store_client: &client(table),
        clock: &clock,
        rng: &mut rng,
    };
    sync_once(tools, request).await
}

fn keys(table: &Arc<Table>) -> Vec<LeaseKey> {
    table.order.lock().unwrap().clone()
}

pub(crate) fn key(n: u128) -> LeaseKey {
    LeaseKey::single_stream(&id(n))
}

pub(crate) fn stream(shards: Vec<Shard>) -> Stream {
    Stream {
        shards,
        ..Stream::default()
    }
}

#[tokio::test(start_paused = true)]
async fn every_page_is_read_despite_a_throttle() {
    let stream = stream((0..40).map(|n| shard(n, &[], n)).collect());
    *stream.failures.lock().unwrap() = vec![SourceErrorKind::Throttled, SourceErrorKind::Unavailable];
    let table = Arc::new(Table::default());
    let report = sync(&stream, &table, &[], InitialPosition::TrimHorizon)
        .await
        .unwrap();
    assert_eq!((report.listed, report.created.len()), (40, 40));
    // Those without parents are created side by side.
    let created: BTreeSet<_> = keys(&table).into_iter().collect();
    assert_eq!(created, (0..40).map(key).collect());
    assert_eq!((report.holes, report.interrupted), (vec![], false));
}

#[tokio::test(start_paused = true)]
async fn create_is_not_repeated_after_the_syncs_deadline() {
    let table = Arc::new(Table {
        loses_writes: true,
        ..Table::default()
    });
    let stream = stream(vec![shard(1, &[], 1)]);
    let report = sync(&stream, &table, &[], InitialPosition::TrimHorizon).await;
    assert!(report.is_ok_and(|report| report.created.is_empty()));
    // The client tries once a second for a minute; the sync has 20 seconds.
    let writes = *table.writes.lock().unwrap();
    assert!((2..=21).contains(&writes), "{writes} writes");
}

#[tokio::test(start_paused = true)]
async fn endless_throttle_and_missing_stream_are_errors() {
    let table = Arc::new(Table::default());
    let busy = stream(vec![shard(1, &[], 1)]);
    *busy.failures.lock().unwrap() = vec![SourceErrorKind::Throttled; 1000];
    assert!(
        sync(&busy, &table, &[], InitialPosition::TrimHorizon)
            .await
            .is_err()
    );
    assert!(busy.failures.lock().unwrap().len() > 900);

    let missing = stream(vec![]);
    *missing.failures.lock().unwrap() = vec![SourceErrorKind::NotFound];
    let error = sync(&missing, &table, &[], InitialPosition::TrimHorizon)
        .await
        .unwrap_err();
    assert!(matches!(error, SyncError::Source(error) if error.kind() == SourceErrorKind::NotFound));
    assert_eq!(keys(&table), []);
}

#[tokio::test(start_paused = true)]
async fn latest_is_pinned_and_listed_by_service_time() {
    let stream = stream(vec![shard(1, &[0], 1)]);
    let table = Arc::new(Table::default());
    sync(&stream, &table, &[], InitialPosition::Latest).await.unwrap();
    let pinned = NOW.minus(Duration::from_secs(1));
    let rows = table.rows.lock().unwrap();
    assert_eq!(rows[&key(1)].pinned_start, Some(pinned));
    assert_eq!(rows[&key(1)].checkpoint, Position::Latest);
    let filters = stream.filters.lock().unwrap();
    assert_eq!(*filters, [ShardFilter::Open, ShardFilter::FromTimestamp(pinned)]);
}

#[tokio::test(start_paused = true)]
async fn first_sync_meeting_another_stops_and_says_so() {
    let stream = stream((0..40).map(|n| shard(n, &[], n)).collect());
    let table = Arc::new(Table::default());
    let other = Lease::unowned(id(3), Position::Latest);
    table.rows.lock().unwrap().insert(key(3), other);
    let report = sync(&stream, &table, &[], InitialPosition::Latest).await.unwrap();
    assert!(report.interrupted);
    assert_eq!(report.not_needed, [key(3)]);
    assert_eq!(report.created.len(), CONCURRENT_CREATES - 1);
}

#[tokio::test(start_paused = true)]
async fn shard_with_newly_leased_child_is_not_recreated() {
    let stream = stream(vec![shard(1, &[], 1), shard(2, &[1], 2), shard(3, &[], 1)]);
    let table = Arc::new(Table::default());
    let scanned = [Lease::unowned(id(3), Position::TrimHorizon)];
    let child = Lease::unowned(id(2), Position::TrimHorizon);
    table.rows.lock().unwrap().insert(key(2), child);
    let report = sync(&stream, &table, &scanned, InitialPosition::TrimHorizon)
        .await
        .unwrap();
    assert_eq!((report.created, report.not_needed), (vec![], vec![key(1)]));
}

#[tokio::test(start_paused = true)]
async fn unreadable_row_keeps_no_shard_from_its_lease() {
    let stream = stream((0..40).map(|n| shard(n, &[], n)).collect());
    let table = Arc::new(Table {
        unreadable: BTreeSet::from([id(3)]),
        ..Table::default()
    });
    let scanned = [Lease::unowned(id(7), Position::TrimHorizon)];
    let initial = InitialPosition::TrimHorizon;
    let report = sync_with(&stream, &table, &scanned, &table.unreadable, initial)
        .await
        .unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(report.created.len(), 38);
    assert_eq!(report.anomalies, [Anomaly::UnreadableLease { key: key(3) }]);
    // Nobody can be given that shard, and this is said.
    let mut split = HashKeyRange::WHOLE
        .halves()
        .map(|(low, high)| [low, high])
        .unwrap();
    split.reverse();
    let halves = (0..2).map(|n| Shard {
        hash_range: split[n as usize],
        ..shard(n, &[], n)
    });
    let (halves, table) = (
        self::stream(halves.collect()),
        Arc::new(Table {
            unreadable: BTreeSet::from([id(1)]),
            ..Table::default()
        }),
    );
    let report = sync_with(&halves, &table, &[], &table.unreadable, initial)
        .await
        .unwrap();
    assert_eq!(report.holes, [split[1]]);
}

#[tokio::test(start_paused = true)]
async fn ancestors_of_unreadable_row_are_not_read_again() {
    // 1 became 2, and 2 became 3. The leases of the first two are cleaned up; they are still listed.
    let stream = stream(vec![
        shard(1, &[], 1),
        shard(2, &[1], 2),
        shard(3, &[2], 3),
        shard(4, &[], 1),
    ]);
    let scanned = [Lease::unowned(id(4), Position::TrimHorizon)];
    let table = Arc::new(Table {
        unreadable: BTreeSet::from([id(3)]),
        ..Table::default()
    });
    let initial = InitialPosition::TrimHorizon;
    for leases in [&scanned[..], &[]] {
        let report = sync_with(&stream, &table, leases, &table.unreadable, initial)
            .await
            .unwrap();
        let expected = if leases.is_empty() { vec![key(4)] } else { vec![] };
        assert_eq!(keys(&table), expected, "{:?}", report.created);
    }
}

#[tokio::test(start_paused = true)]
async fn child_with_newly_unreadable_row_vouches_for_parent() {
    let stream = stream(vec![shard(1, &[], 1), shard(2, &[1], 2), shard(3, &[], 1)]);
    let scanned = [Lease::unowned(id(3), Position::TrimHorizon)];
    let table = Arc::new(Table {
        unreadable: BTreeSet::from([id(2)]),
        ..Table::default()
    });
    let report = sync(&stream, &table, &scanned, InitialPosition::TrimHorizon)
        .await
        .unwrap();
    assert_eq!((report.created, report.not_needed), (vec![], vec![key(1)]));
}

#[tokio::test(start_paused = true)]
async fn stream_with_only_unreadable_row_keeps_its_pin() {
    let stream = stream(vec![shard(1, &[], 1), shard(2, &[], 1)]);
    let table = Arc::new(Table {
        unreadable: BTreeSet::from([id(1)]),
        ..Table::default()
    });
    let initial = InitialPosition::Latest;
    sync_with(&stream, &table, &[], &table.unreadable, initial)
        .await
        .unwrap();
    let rows = table.rows.lock().unwrap();
    assert_eq!(
        rows.values().map(|row| &row.checkpoint).collect::<Vec<_>>(),
        [&Position::TrimHorizon]
    );
}

#[tokio::test(start_paused = true)]
async fn failed_creation_holds_up_only_its_descendants() {
    // 1 and 2 became 4; the lease of 2 is ended. 3 is somewhere else.
    let stream = stream(vec![
        shard(1, &[], 1),
        shard(2, &[], 1),
        shard(3, &[], 1),
        shard(4, &[1, 2], 2),
    ]);
    let scanned = [Lease::unowned(id(2), Position::ShardEnd)];
    let table = Arc::new(Table {
        unreadable: BTreeSet::from([id(1)]),
        ..Table::default()
    });
    // The scan had not seen that row yet.
    let report = sync(&stream, &table, &scanned, InitialPosition::TrimHorizon)
        .await
        .unwrap();
    let failed: Vec<_> = report.failed.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!((failed, keys(&table)), (vec![key(1)], vec![key(3)]));
    let table = Arc::new(Table {
        rows: Mutex::new(table.rows.lock().unwrap().clone()),
        order: Mutex::new(keys(&table)),
        ..Table::default()
    });
    let scanned = [scanned[0].clone(), Lease::unowned(id(3), Position::TrimHorizon)];
    let report = sync(&stream, &table, &scanned, InitialPosition::TrimHorizon)
        .await
        .unwrap();
    assert!(report.failed.is_empty());
    assert_eq!(keys(&table), [key(3), key(1), key(4)]);
}

#[test]
fn key_of_row_tells_shard_of_this_stream() {
    let trucks = LeaseKeyScheme::MultiStream(StreamKey::new("1:trucks:5").unwrap());
    assert_eq!(LeaseKeyScheme::SingleStream.shard(key(1).as_str()), Some(id(1)));
    assert_eq!(trucks.shard(trucks.key(&id(1)).unwrap().as_str()), Some(id(1)));
    assert_eq!(trucks.shard("1:trucks:55:shardId-1"), None);
    assert_eq!(trucks.shard("worker-1"), None);
    assert_eq!(LeaseKeyScheme::SingleStream.shard(""), None);
}

#[tokio::test(start_paused = true)]
async fn after_the_deadline_nothing_is_created() {
    let stream = stream(vec![shard(1, &[], 1), shard(2, &[1], 2), shard(3, &[], 1)]);
    let scanned = [Lease::unowned(id(3), Position::TrimHorizon)];
    for (seconds, is_in_time) in [(19, true), (21, false)] {
        let table = Arc::new(Table {
            read_takes: Duration::from_secs(seconds),
            ..Table::default()
        });
        let outcome = sync(&stream, &table, &scanned, InitialPosition::TrimHorizon).await;
        assert_eq!(!matches!(outcome, Err(SyncError::Deadline)), is_in_time);
        assert_eq!(keys(&table).len(), usize::from(is_in_time));
    }
}

#[tokio::test(start_paused = true)]
async fn read_without_answer_ends_sync_at_its_deadline() {
    let stream = stream(vec![shard(1, &[], 1), shard(2, &[1], 2), shard(3, &[], 1)]);
    let scanned = [Lease::unowned(id(3), Position::TrimHorizon)];
    let table = Arc::new(Table {
        read_takes: Duration::from_secs(1_000_000),
        ..Table::default()
    });
    let (clock, limit) = (TokioClock::new(), Duration::from_secs(21));
    let outcome = clock
        .timeout(
            limit,
            sync(&stream, &table, &scanned, InitialPosition::TrimHorizon),
        )
        .await;
    assert!(matches!(outcome, Ok(Err(SyncError::Deadline))));
}

#[test]
fn batch_holds_no_shard_together_with_its_parent() {
    let creation = |n: u128, parents: &[u128]| {
        let mut lease = Lease::unowned(id(n), Position::TrimHorizon);
        lease.parents = parents.iter().copied().map(id).collect();
        Creation {
            lease,
            reason: CreateReason::NeverLeased,
        }
    };
    let creates = [
        creation(1, &[]),
        creation(2, &[0]),
        creation(3, &[2]),
        creation(4, &[3]),
    ];
    let sizes: Vec<_> = batches(&creates).iter().map(|batch| batch.len()).collect();
    assert_eq!(sizes, [2, 1, 1]);
    assert!(batches(&[]).is_empty());
}
