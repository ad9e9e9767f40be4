//! A fleet in one process: a hundred trucks, five shards, three workers, then a split, a merge, a newcomer and a death.
//!
//! `cargo run --example quickstart` needs no AWS, no Docker and no configuration. It ends by itself, with a verdict.

mod fleet;
mod view;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fleet::{FAILOVER, Fleet};
use kcl_core::internals::TaskPolicy;
use kcl_examples::ledger::Ledger;
use kcl_examples::trucks::TruckPosition;
use kinesis_client::MemoryStream;
use kinesis_client::clock::{Clock, ClockExt as _, TokioClock};

const TRUCKS: u32 = 100;
/// How often each truck sends its position.
const SEND_INTERVAL: Duration = Duration::from_millis(200);
/// How long each chapter of the scenario lasts at least, so that it can be read.
const CHAPTER: Duration = Duration::from_millis(1200);
/// No chapter may take longer; the whole scenario takes about 15 s.
const PATIENCE: Duration = Duration::from_secs(15);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match tell().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenario. Returns `true` if everything in it was as it should be.
async fn tell() -> Result<bool, AnyError> {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let ledger = Arc::new(Ledger::default());
    let stream = MemoryStream::new("truck-positions", 5, Arc::clone(&clock));
    let fleet = Arc::new(Fleet::new(
        stream.clone(),
        Arc::clone(&ledger),
        Arc::clone(&clock),
    ));
    fleet.tell(format!("{TRUCKS} trucks, 5 shards, failover time {FAILOVER:?}"));
    fleet.scope.spawn(
        "trucks",
        TaskPolicy::Job,
        drive(stream.clone(), Arc::clone(&ledger), Arc::clone(&fleet)),
    );
    fleet
        .scope
        .spawn("view", TaskPolicy::Job, view::show(Arc::clone(&fleet)));

    for name in ["worker-1", "worker-2", "worker-3"] {
        fleet.join(name)?;
    }
    chapter(&fleet, "three workers share the shards", || fleet.shares_all(3)).await?;

    let open = fleet.open_shards();
    let [a, b] = stream.split(&open[0].id)?;
    fleet.tell(format!(
        "{} is split into {} and {}",
        short(&open[0].id),
        short(&a),
        short(&b)
    ));
    chapter(&fleet, "the children of the split are read", || {
        fleet.shares_all(3)
    })
    .await?;

    let child = stream.merge(&open[2].id, &open[3].id)?;
    fleet.tell(format!(
        "{} and {} are merged into {}",
        short(&open[2].id),
        short(&open[3].id),
        short(&child)
    ));
    chapter(&fleet, "the child of the merge is read", || fleet.shares_all(3)).await?;

    fleet.join("worker-4")?;
    chapter(&fleet, "the fourth worker has its share", || fleet.shares_all(4)).await?;

    let victim = fleet.kill_the_busiest();
    fleet.tell(format!("{victim} is killed without warning"));
    chapter(&fleet, "the others have taken over", || fleet.shares_all(3)).await?;

    fleet.stop_trucks();
    chapter(&fleet, "everything sent is processed", || {
        let (sent, processed) = ledger.counts();
        sent == processed
    })
    .await?;
    let shares = fleet.shares();
    fleet.tell("the fleet shuts down");
    let clean = fleet.shut_down().await?;
    fleet.stop_view().await;

    let verdict = ledger.judge(&fleet.children());
    println!(
        "\nVerdict after {:.1} s:",
        clock.now().since_origin().as_secs_f64()
    );
    println!("{verdict}");
    let mark = if clean { "ok  " } else { "FAIL" };
    println!("  {mark} every lease was given up at the end");
    println!("       leases per worker before that: {shares:?}");
    Ok(verdict.is_good() && clean)
}

/// Waits until what the chapter is about has come true, and at least long enough to be read.
async fn chapter(fleet: &Fleet, goal: &str, mut is_true: impl FnMut() -> bool) -> Result<(), AnyError> {
    let begun = fleet.clock.now();
    while !is_true() {
        if fleet.clock.now().saturating_since(begun) > PATIENCE {
            return Err(format!("waited {PATIENCE:?} in vain: {goal}").into());
        }
        fleet.clock.sleep(Duration::from_millis(10)).await;
    }
    fleet.tell(format!(
        "{goal} ({:.1} s)",
        fleet.clock.now().saturating_since(begun).as_secs_f64()
    ));
    fleet.clock.sleep_until(begun + CHAPTER).await;
    Ok(())
}

/// Drives the trucks until they are stopped: each sends its next position with its id as partition key.
async fn drive(stream: MemoryStream, ledger: Arc<Ledger>, fleet: Arc<Fleet>) {
    for number in 1.. {
        let next = fleet.clock.now() + SEND_INTERVAL;
        for truck in 1..=TRUCKS {
            let position = TruckPosition::of(truck, number);
            match stream.put(position.partition_key(), position.to_string()) {
                Ok((shard, sequence)) => ledger.sent(&shard, sequence),
                Err(error) => return fleet.tell(format!("the trucks stop: {error}")),
            }
        }
        tokio::select! {
            biased;
            () = fleet.trucks_stopped() => return,
            () = fleet.clock.sleep_until(next) => {}
        }
    }
}

/// The part of a shard id in which shards differ.
pub(crate) fn short(shard: &kinesis_client::types::ShardId) -> String {
    let digits = shard
        .as_str()
        .trim_start_matches("shardId-")
        .trim_start_matches('0');
    format!("shard {}", if digits.is_empty() { "0" } else { digits })
}
