//! Tumbling windows in fleets, with a bug that loses records of them and without.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::internals::{Failpoint, failpoint};
use kcl_core::processor::{ProcessorError, ShardContext, TumblingWindows, Window, WindowProcessor};
use kcl_core::types::Record;
use kcl_mutants::found_by_tests;
use kcl_testkit::ProcessorSimulation;

/// The counts of the panes, by their keys, each with the token of its writer.
type Table = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

struct Counts(Table);

#[async_trait]
impl WindowProcessor for Counts {
    type State = ();

    fn open(&mut self, _: &Window) {}

    fn record(&mut self, (): &mut (), _: &Record) -> Result<(), ProcessorError> {
        Ok(())
    }

    async fn window_closed(
        &mut self,
        (): &mut (),
        window: &Window,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let row = (shard.fencing_token().as_u64(), window.records);
        let mut table = self.0.lock().unwrap();
        let stored = table.entry(window.pane_key(shard)).or_insert(row);
        *stored = row.max(*stored);
        Ok(())
    }
}

/// Runs fleets that count in windows. Returns `true` if each record is counted once.
fn counts_are_right() -> bool {
    let table = Table::default();
    let written = Arc::clone(&table);
    let length = Duration::from_secs(2);
    let windows = TumblingWindows::new(length, move |_: &ShardContext| Counts(Arc::clone(&written)));
    let simulation = ProcessorSimulation::of(windows.unwrap()).check(move |end| {
        let counted: u64 = std::mem::take(&mut *table.lock().unwrap())
            .into_values()
            .map(|(_, count)| count)
            .sum();
        assert_eq!(counted, end.records.len() as u64);
    });
    catch_unwind(AssertUnwindSafe(|| simulation.run(0..5))).is_ok()
}

#[test]
fn window_counts_miss_records_of_open_windows() {
    let bug = Failpoint::OpenWindowCheckpointed;
    let listed = found_by_tests().into_iter().find(|(of, _)| *of == bug);
    assert_eq!(
        listed.map(|(_, test)| test),
        Some("window_counts_miss_records_of_open_windows")
    );
    assert!(counts_are_right());
    assert!(!failpoint::with(bug, counts_are_right));
}
