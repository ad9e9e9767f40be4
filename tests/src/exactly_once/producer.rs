//! Puts plain and aggregated records until it is stopped, and keeps what it has put.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kcl_aggregation::Aggregator;
use kcl_core::clock::{ClockExt as _, Rng, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_core::types::{RecordPosition, ShardId};
use kcl_lease_memory::MemoryStream;

const PERIOD: Duration = Duration::from_millis(20);
const CUSTOMERS: u64 = 50;

/// A user record that the stream has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OrderPut {
    pub(super) shard: ShardId,
    pub(super) position: RecordPosition,
    pub(super) item: String,
}

/// Runs until it is dropped.
pub(super) struct Producer {
    puts: Arc<Mutex<Vec<OrderPut>>>,
    scope: TaskScope,
}

impl Producer {
    pub(super) fn start(stream: MemoryStream, mut rng: Rng) -> Self {
        let puts = Arc::<Mutex<Vec<OrderPut>>>::default();
        let noted = Arc::clone(&puts);
        let scope = TaskScope::new();
        scope.spawn("producer", TaskPolicy::Job, async move {
            let clock = TokioClock::new();
            loop {
                put(
                    &stream,
                    &mut rng,
                    &mut noted.lock().unwrap_or_else(PoisonError::into_inner),
                );
                clock.sleep(PERIOD).await;
            }
        });
        Self { puts, scope }
    }

    /// Ends it, and returns everything that was put.
    pub(super) async fn stop(&self) -> Vec<OrderPut> {
        self.scope.kill();
        self.scope.wait_until_empty().await;
        self.puts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts one Kinesis record: every other one is aggregated, of one customer and so of one shard.
fn put(stream: &MemoryStream, rng: &mut Rng, puts: &mut Vec<OrderPut>) {
    let customer = format!("customer-{}", rng.below(CUSTOMERS));
    let number = puts.len() as u64;
    let records = if rng.one_in(2) { 2 + rng.below(4) } else { 1 };
    let items: Vec<String> = (number..number + records).map(|n| format!("order {n}")).collect();
    let taken = if let [item] = &items[..] {
        stream.put(customer, item.clone())
    } else {
        let mut aggregator = Aggregator::new();
        for item in &items {
            let full = aggregator.add(&customer, None, item.as_bytes());
            assert_eq!(full, Ok(None), "a few short orders fit");
        }
        let packed = aggregator.finish().expect("there is something in it");
        stream.put(packed.partition_key, packed.data)
    };
    let (shard, sequence) = taken.expect("a stream in memory takes everything");
    puts.extend((0..).zip(items).map(|(sub_sequence, item)| OrderPut {
        shard: shard.clone(),
        position: RecordPosition {
            sequence: sequence.clone(),
            sub_sequence,
        },
        item,
    }));
}
