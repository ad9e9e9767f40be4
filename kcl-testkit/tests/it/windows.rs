//! Tumbling windows over real workers: the same counts whatever is killed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::Rng;
use kcl_core::processor::{
    FencingToken, ProcessorError, RecordProcessorFactory, ShardContext, TumblingWindows, Window,
    WindowProcessor,
};
use kcl_core::settings::{ByteSize, Settings};
use kcl_core::types::{Record, RecordPosition, ShardId};
use kcl_testkit::{ProcessorBench, ProcessorSimulation};

const SECOND: Duration = Duration::from_secs(1);

/// A row of the sink: the ownership that wrote it, and the records of the pane.
type Row = (FencingToken, ShardId, Window, Vec<RecordPosition>);

/// A table with a row for each pane, in which a former owner writes nothing over a later one.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<String, Row>>>);

impl Table {
    /// The positions of the records in all rows, by shard.
    fn records(&self) -> Vec<(ShardId, RecordPosition)> {
        let rows = self.0.lock().unwrap();
        let of_row = |(_, shard, _, records): &Row| {
            let shard = shard.clone();
            records
                .clone()
                .into_iter()
                .map(move |record| (shard.clone(), record))
        };
        let mut records: Vec<_> = rows.values().flat_map(of_row).collect();
        records.sort();
        records
    }

    /// The number of records in each window of the stream.
    fn counts(&self) -> BTreeMap<i64, u64> {
        let mut counts = BTreeMap::new();
        for (_, _, window, _) in self.0.lock().unwrap().values() {
            *counts.entry(window.start.as_millis()).or_default() += window.records;
        }
        counts
    }

    fn windows(&self, length: Duration) -> TumblingWindows<impl Fn(&ShardContext) -> Lists + use<>> {
        let table = self.clone();
        TumblingWindows::new(length, move |_: &ShardContext| Lists(table.clone())).unwrap()
    }
}

struct Lists(Table);

#[async_trait]
impl WindowProcessor for Lists {
    type State = Vec<RecordPosition>;

    fn open(&mut self, _: &Window) -> Vec<RecordPosition> {
        Vec::new()
    }

    fn record(&mut self, records: &mut Vec<RecordPosition>, record: &Record) -> Result<(), ProcessorError> {
        records.push(record.position().detached());
        Ok(())
    }

    async fn window_closed(
        &mut self,
        records: &mut Vec<RecordPosition>,
        window: &Window,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let row: Row = (
            shard.fencing_token(),
            shard.shard().clone(),
            window.clone(),
            records.clone(),
        );
        let mut rows = self.0.0.lock().unwrap();
        let before = rows.get(&window.pane_key(shard));
        if before.is_none_or(|(token, ..)| *token <= row.0) {
            rows.insert(window.pane_key(shard), row);
        }
        Ok(())
    }
}

/// Puts records for minutes, and kills the worker so many times at random. Checks that each window has the records that arrived in it.
fn count_with_kills(kills: u32) {
    let table = Table::default();
    let mut bench = ProcessorBench::of(table.windows(10 * SECOND)).start();
    let (mut records, mut faults) = (Rng::from_seed(1), Rng::from_seed(2));
    let mut left = kills;
    for step in 0..400_u64 {
        for _ in 0..records.below(4) {
            bench.put("truck-7", "x");
        }
        // A few times nothing comes for longer than a window lasts.
        let pause = if step % 90 == 89 {
            30_000
        } else {
            records.below(900)
        };
        bench.run(Duration::from_millis(pause));
        if left > 0 && faults.below(8) == 0 {
            left -= 1;
            bench.kill();
        }
    }
    bench.until_finished();
    assert_eq!(left, 0, "kills are left over");
    assert_eq!(table.records(), bench.put_records());
    let mut expected = BTreeMap::<i64, u64>::new();
    for (_, record) in bench.stream().put_log() {
        let arrived = record.approximate_arrival().expect("the stream stamps records");
        *expected
            .entry(arrived.as_millis().div_euclid(10_000) * 10_000)
            .or_default() += 1;
    }
    assert_eq!(table.counts(), expected);
    assert!(expected.len() > 15, "{expected:?}");
}

#[test]
fn fifty_kills_change_no_count() {
    count_with_kills(0);
    count_with_kills(50);
}

#[test]
fn manual_checkpoints_need_no_setting() {
    let table = Table::default();
    let windows = table.windows(10 * SECOND);
    assert!(windows.checkpoint_mode().is_some());
    let mut bench = ProcessorBench::of(windows).start();
    bench.put("truck-7", "x");
    bench.run(3 * SECOND);
    assert_eq!(bench.finished(), [], "its window is open");
    bench.kill();
    bench.run(3 * SECOND);
    bench.hand_over();
    assert_eq!(table.records(), [], "the successor makes the window again");
    bench.until_finished();
    assert_eq!(table.records(), bench.put_records());
}

#[test]
fn end_of_shard_closes_its_windows() {
    let table = Table::default();
    let mut bench = ProcessorBench::of(table.windows(3600 * SECOND)).start();
    (0..5).for_each(|_| drop(bench.put("truck-7", "x")));
    bench.run(5 * SECOND);
    let shard = bench.open_shards().remove(0);
    bench.split(&shard);
    bench.until_finished();
    assert_eq!(table.records().len(), 5);
}

#[test]
fn bound_on_open_bytes_holds_the_shard() {
    let table = Table::default();
    let windows = table.windows(3600 * SECOND).max_open_bytes(ByteSize::b(100));
    let mut bench = ProcessorBench::of(windows).start();
    (0..20).for_each(|_| drop(bench.put("truck-7", "x")));
    let held = bench.wait_for(|status| status.leases.values().any(|lease| lease.failures > 1));
    assert!(
        held.leases.values().all(|lease| lease.failing.is_some()),
        "{held:#?}"
    );
    assert_eq!(table.records(), []);
}

#[test]
fn early_emission_keeps_within_the_bound() {
    let table = Table::default();
    let windows = table
        .windows(3600 * SECOND)
        .max_open_bytes(ByteSize::b(30))
        .emit_early();
    let mut bench = ProcessorBench::of(windows).start();
    for _ in 0..10 {
        (0..7).for_each(|_| drop(bench.put("truck-7", "x")));
        bench.run(2 * SECOND);
        bench.kill();
        bench.run(10 * SECOND);
    }
    assert!(
        bench.finished().len() > 60,
        "{} are finished",
        bench.finished().len()
    );
    let bytes = table.0.lock().unwrap();
    assert!(bytes.values().all(|(_, _, window, _)| window.bytes <= 30));
}

/// Windows in the seeded fleets: each record must be in one row of the table at the end.
pub(crate) fn fleets_of_windows() -> ProcessorSimulation {
    let table = Table::default();
    let written = table.clone();
    let windows = table.windows(2 * SECOND).idle_grace(SECOND);
    let mut settings = Settings::default();
    settings.leases.failover_time = 4 * SECOND;
    ProcessorSimulation::of(windows)
        .settings(settings)
        .check(move |end| {
            let mut expected: Vec<_> = end
                .records
                .iter()
                .map(|(shard, record)| (shard.clone(), record.position().clone()))
                .collect();
            expected.sort();
            let records = written.records();
            written.0.lock().unwrap().clear();
            assert!(records == expected, "a window has a record too few or too many");
        })
}

#[test]
fn fleets_count_each_record_once() {
    let report = fleets_of_windows().run(0..8);
    assert!(report.violent >= 8, "{report}");
}
