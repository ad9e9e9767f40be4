use super::*;
use crate::lease::scan_deadline::ScanDeadline;
use crate::lease::scanner::ScanOutcome;
use futures_util::future::join;

const SECOND: Duration = Duration::from_secs(1);

/// A scanner of a table that takes a second to scan.
fn slow_scanner(table: &Arc<Table>, clock: &Arc<dyn Clock>) -> TableScanner {
    *table.slow.lock().unwrap() = Some((Arc::clone(clock), SECOND));
    let client = StoreClient::new(
        Arc::<Table>::clone(table),
        Arc::clone(clock),
        TaskScope::new(),
        Incarnation::from_random_bytes([1; 16]),
        Timing::of(F).calls,
        Metrics::register(None, "scanner", MetricsLevel::default()),
    );
    TableScanner::new(client, Arc::clone(clock))
}

fn scans(table: &Table) -> u32 {
    *table.scans.lock().unwrap()
}

async fn fresh_after(scanner: &TableScanner, clock: &Arc<dyn Clock>, time: Duration) -> ScanOutcome {
    pass(clock, time).await;
    scanner.fresh(&mut ScanDeadline::between((F, F))).await
}

#[tokio::test(start_paused = true)]
async fn callers_during_scan_share_the_next() {
    let (table, clock) = (Table::with_leases(1), clock());
    let scanner = slow_scanner(&table, &clock);
    let begun = clock.now();
    let ask = |millis| fresh_after(&scanner, &clock, Duration::from_millis(millis));
    let (first, (second, third)) = join(ask(0), join(ask(100), ask(200))).await;
    assert!(first.is_ok() && second.is_ok());
    assert!(
        Arc::ptr_eq(&second.unwrap(), &third.unwrap()),
        "one scan for both"
    );
    assert_eq!((scans(&table), clock.now()), (2, begun + 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn dropped_caller_gives_its_turn_to_the_next() {
    let (table, clock) = (Table::with_leases(1), clock());
    let scanner = slow_scanner(&table, &clock);
    let dropped = clock.timeout(SECOND / 2, fresh_after(&scanner, &clock, Duration::ZERO));
    let (dropped, next) = join(dropped, fresh_after(&scanner, &clock, SECOND / 4)).await;
    assert!(dropped.is_err() && next.is_ok());
    assert_eq!(scans(&table), 2);
}

#[tokio::test(start_paused = true)]
async fn hanging_scan_fails_those_who_wait_in_time() {
    let (table, clock) = (Table::with_leases(1), clock());
    let scanner = slow_scanner(&table, &clock);
    table.hang_once(Hang::Scan);
    let begun = clock.now();
    let hanging = fresh_after(&scanner, &clock, Duration::ZERO);
    let waiting = async {
        let mut deadline = ScanDeadline::between((SECOND, F));
        let outcome = scanner.fresh(&mut deadline).await;
        (outcome, clock.now(), deadline.get())
    };
    let (hanging, (outcome, ended, deadline)) = join(hanging, waiting).await;
    assert!(hanging.is_err() && outcome.is_err());
    assert_eq!((ended, deadline), (begun + SECOND, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn listener_hears_only_scans_started_later() {
    let (table, clock) = (Table::with_leases(1), clock());
    let scanner = slow_scanner(&table, &clock);
    let begun = clock.now();
    let early = fresh_after(&scanner, &clock, Duration::ZERO);
    let late = fresh_after(&scanner, &clock, SECOND / 2);
    let listening = async {
        pass(&clock, SECOND / 4).await;
        let listener = scanner.listen();
        listener.next().await;
        clock.now()
    };
    let (heard, _) = join(listening, join(early, late)).await;
    assert_eq!(heard, begun + 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn scan_of_others_replaces_one_of_the_planner() {
    let (table, clock) = (Table::with_leases(1), clock());
    let mut shared = None;
    let _worker = Worker::start_as("a", &table, &clock, |context| {
        shared = Some(Arc::clone(&context.scanner));
        context
    });
    let scanner = shared.unwrap();
    pass(&clock, Duration::from_millis(100)).await;
    let before = scans(&table);
    // The planner scans once a second, and another caller just before it.
    for _ in 0..10 {
        fresh_after(&scanner, &clock, Duration::from_millis(900))
            .await
            .unwrap();
    }
    assert_eq!(scans(&table) - before, 10);
    let shard = ShardId::new("new").unwrap();
    table
        .rows()
        .leases
        .push(Lease::unowned(shard, Position::TrimHorizon));
    fresh_after(&scanner, &clock, Duration::from_millis(100))
        .await
        .unwrap();
    pass(&clock, Duration::from_millis(1)).await;
    assert_eq!(table.owners(), counts([("a", 2)]), "the planner plans by it");
}
