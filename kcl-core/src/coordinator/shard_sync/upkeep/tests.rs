use std::time::Duration;

use super::*;
use crate::coordinator::shard_sync::sync::tests::{Stream, Table, client, key, stream};
use crate::lease::key_scheme::LeaseKeyScheme;
use crate::runtime::clock::{Clock as _, TokioClock};
use crate::runtime::rng::Rng;
use crate::source::shard_graph::testing::{id, identity, shard};
use crate::types::{InitialPosition, Position, ShardId};
use std::sync::Arc;

/// How long an upkeep may go on.
const TIME: Duration = Duration::from_secs(20);

struct Kept {
    outcome: Result<(), SyncError>,
    report: UpkeepReport,
    suspects: BTreeSet<LeaseKey>,
}

/// Makes an upkeep after one that suspected these shards to be gone.
async fn keep_up_after(suspects: &[u128], stream: &Stream, table: &Arc<Table>, scanned: &[Lease]) -> Kept {
    let clock = TokioClock::new();
    let mut rng = Rng::from_seed(1);
    let request = SyncRequest {
        leases: scanned,
        unreadable: &BTreeSet::new(),
        initial: InitialPosition::TrimHorizon,
        keying: &LeaseKeyScheme::SingleStream,
        identity: &identity(),
        deadline: clock.now() + TIME,
    };
    let tools = SyncTools {
        source: stream,
        store_client: &client(table),
        clock: &clock,
        rng: &mut rng,
    };
    let mut suspects = suspects.iter().copied().map(key).collect();
    let mut report = UpkeepReport::default();
    let outcome = keep_up(tools, request, &mut suspects, true, &mut report).await;
    Kept {
        outcome,
        report,
        suspects,
    }
}

fn table(leases: &[Lease], unreadable: &[u128]) -> Arc<Table> {
    let table = Arc::new(Table {
        unreadable: unreadable.iter().copied().map(id).collect::<BTreeSet<ShardId>>(),
        ..Table::default()
    });
    let rows = leases.iter().map(|lease| (lease.key.clone(), lease.clone()));
    table.rows.lock().unwrap().extend(rows);
    table
}

fn gone(report: &UpkeepReport) -> Vec<LeaseKey> {
    report.gone.iter().map(|lease| lease.key.clone()).collect()
}

fn deleted(report: &UpkeepReport) -> Vec<LeaseKey> {
    report.deleted.iter().map(|(key, _)| key.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn upkeep_tells_what_succeeded_beside_a_failure() {
    // Retention took 1, 2 and 3; 5 is read to its end and listed no more.
    let stream = stream(vec![shard(4, &[], 1)]);
    let mut leases: Vec<_> = (1..=4)
        .map(|n| Lease::unowned(id(n), Position::TrimHorizon))
        .collect();
    leases.push(Lease::unowned(id(5), Position::ShardEnd));
    let table = table(&leases, &[1, 3]);
    let kept = keep_up_after(&[1, 2, 3], &stream, &table, &leases).await;
    assert!(matches!(kept.outcome, Err(SyncError::Store(_))));
    assert_eq!(
        (gone(&kept.report), deleted(&kept.report)),
        (vec![key(2)], vec![key(5)])
    );
    assert!(table.rows.lock().unwrap()[&key(2)].is_ended());
    assert_eq!(
        kept.suspects,
        BTreeSet::from([key(1), key(3)]),
        "for the next one"
    );
}

#[tokio::test(start_paused = true)]
async fn upkeep_tells_what_succeeded_before_its_deadline() {
    // 2 is done, and its child has started; to see that takes longer than there is time.
    let stream = stream(vec![shard(2, &[], 1), shard(3, &[2], 2)]);
    let leases = [
        Lease::unowned(id(1), Position::TrimHorizon),
        Lease::unowned(id(2), Position::ShardEnd),
        Lease::unowned(id(3), Position::ShardEnd),
    ];
    let table = Arc::new(Table {
        read_takes: TIME,
        ..Arc::into_inner(table(&leases, &[])).unwrap()
    });
    let kept = keep_up_after(&[1], &stream, &table, &leases).await;
    assert!(matches!(kept.outcome, Err(SyncError::Deadline)));
    assert_eq!(
        (gone(&kept.report), deleted(&kept.report)),
        (vec![key(1)], vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn shard_is_gone_when_two_upkeeps_miss_it() {
    let stream = stream(vec![shard(4, &[], 1)]);
    let leases = [1, 2].map(|n| Lease::unowned(id(n), Position::TrimHorizon));
    let table = table(&leases, &[]);
    let kept = keep_up_after(&[2, 7], &stream, &table, &leases).await;
    kept.outcome.unwrap();
    assert_eq!(
        (gone(&kept.report), kept.suspects),
        (vec![key(2)], BTreeSet::from([key(1)]))
    );
}
