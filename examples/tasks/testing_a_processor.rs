//! Tests a processor: one test of a few lines, failures of its sinks, a death and a split, and a hundred fleets in which everything fails.
//!
//! `cargo test -p kcl-examples --example testing_a_processor`; run as a program it does what the last test does, and prints the report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kcl_testkit::{ProcessorSimulation, SimulationEnd};
use kinesis_client::processor::{LastResort, Policy};
use kinesis_client::types::RecordPosition;
use kinesis_client::{ProcessorError, RecordBatch, RecordProcessor, ShardContext, async_trait};

/// The table that the processor writes: an amount for each record. A record that comes again writes its own row.
#[derive(Debug, Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<RecordPosition, u64>>>);

impl Table {
    fn write(&self, position: RecordPosition, amount: u64) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(position, amount);
    }

    fn take(&self) -> BTreeMap<RecordPosition, u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes the amount of each order to a table. An order without an amount is poison.
struct Orders {
    table: Table,
}

#[async_trait]
impl RecordProcessor for Orders {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            let text = std::str::from_utf8(record.data())
                .map_err(|error| ProcessorError::poison(error).at(record))?;
            let amount = text
                .parse()
                .map_err(|_| ProcessorError::poison("no amount").at(record))?;
            self.table.write(record.position().clone(), amount);
        }
        Ok(())
    }
}

/// Every order is in the table or, where it has no amount, among the dead letters.
fn is_complete(table: &Table, end: &SimulationEnd) {
    let rows = table.take();
    for (shard, record) in &end.records {
        let is_set_aside = end
            .dead_letters
            .iter()
            .any(|letter| letter.record.position() == record.position());
        let is_written = rows.contains_key(record.position());
        assert!(is_written != is_set_aside, "{} of {shard}", record.position());
    }
}

/// The orders with these numbers: one in fifty has no amount.
fn order(number: u64) -> (String, String) {
    let amount = match number % 50 {
        0 => "none".to_owned(),
        _ => number.to_string(),
    };
    (format!("customer-{}", number % 20), amount)
}

fn simulation() -> ProcessorSimulation {
    let table = Table::default();
    let written = table.clone();
    let orders = move |_: &ShardContext| Orders { table: table.clone() };
    ProcessorSimulation::of(orders)
        .error_policy(Policy::new(LastResort::DeadLetter))
        .records(order)
        .check(move |end| is_complete(&written, end))
}

fn main() {
    println!("{}", simulation().run(0..10));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kcl_testkit::{BenchBuilder, ProcessorBench};

    use super::*;

    #[test]
    fn order_is_written() {
        let table = Table::default();
        let orders = table.clone();
        let mut bench = ProcessorBench::of(move |_: &ShardContext| Orders {
            table: orders.clone(),
        })
        .start();
        bench.put("customer-7", "42");
        bench.until_finished();
        assert_eq!(table.take().into_values().collect::<Vec<_>>(), [42]);
    }

    fn bench(table: &Table) -> BenchBuilder {
        let table = table.clone();
        ProcessorBench::of(move |_: &ShardContext| Orders { table: table.clone() })
            .error_policy(Policy::new(LastResort::DeadLetter))
    }

    #[test]
    fn order_without_amount_waits_for_its_letter() {
        let table = Table::default();
        let mut bench = bench(&table).start();
        bench.dead_letters().fail();
        for amount in ["1", "none", "3"] {
            bench.put("customer-7", amount);
        }
        // An hour takes milliseconds.
        bench.run(Duration::from_secs(3600));
        assert_eq!(bench.finished().len(), 1);
        bench.dead_letters().recover();
        bench.until_finished();
        assert_eq!(bench.dead_letters().letters().len(), 1);
        assert_eq!(table.take().into_values().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn orders_survive_a_death_and_a_split() {
        let table = Table::default();
        let mut bench = bench(&table).start();
        (0..10).for_each(|amount| drop(bench.put("customer-7", amount.to_string())));
        bench.kill();
        let shard = bench.open_shards().remove(0);
        let children = bench.split(&shard);
        (10..20).for_each(|amount| drop(bench.put("customer-7", amount.to_string())));
        bench.until_finished();
        bench.hand_over();
        assert_eq!(table.take().len(), 20);
        assert!(
            children
                .iter()
                .all(|child| bench.checkpoints().contains_key(child))
        );
    }

    /// With `KCL_SEED=42` it runs only that seed.
    #[test]
    fn orders_survive_a_hundred_fleets() {
        let report = simulation().run(0..100);
        assert!(report.faults > 0 && report.set_aside > 0, "{report}");
    }
}
