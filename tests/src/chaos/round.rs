//! One round: a fleet starts, a plan is done to it, it heals, and what it did is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_kinesis::types::Shard;
use kcl_core::clock::{Clock as _, TokioClock};
use kcl_core::types::RecordPosition;

use super::drive::{drain, heal, inflict, until};
use super::fleet::ChaosFleet;
use super::plan::{ChaosShape, plan};
use super::report::Round;
use super::table::SeenTable;
use crate::fleet::drive::{Programs, lineage};
use crate::fleet::evidence::{Evidence, Lineage, held};
use crate::fleet::leases::owners;
use crate::fleet::log::{Event, Put};
use crate::fleet::processes::Process;
use crate::testbed::Testbed;

/// Many times what it takes: what is waited for must happen, on machines of every speed.
const BOUND: Duration = Duration::from_secs(120);

/// Runs the round of this seed.
///
/// # Panics
///
/// When anything is lost, out of order or stuck: with all that was found, and where the logs are.
pub async fn round(testbed: &Testbed, programs: &Programs, shape: &ChaosShape, seed: u64) -> Round {
    let clock = TokioClock::new();
    let began = clock.now();
    let mut fleet = ChaosFleet::start(testbed, programs, shape, seed).await;
    every_shard_is_consumed(&mut fleet).await;
    fleet.journal.note("every shard is consumed; the faults begin");
    let injected = inflict(&mut fleet, plan(seed, shape)).await;

    heal(&mut fleet).await;
    fleet.journal.note("all faults are over");
    let healing = clock.now();
    everything_is_seen(&mut fleet).await;
    every_shard_is_consumed(&mut fleet).await;
    the_living_own_every_shard(&mut fleet).await;
    let healed = clock.now().saturating_since(healing);
    fleet.journal.note("healed");

    fleet.producer.terminate();
    let ended = fleet.producer.ended(BOUND).await;
    assert!(
        ended.success(),
        "the producer failed:{}",
        fleet.producer.printed()
    );
    everything_is_seen(&mut fleet).await;
    drain(&mut fleet).await;
    nobody_owns_anything(&fleet).await;

    let evidence = evidence(&fleet, lineage(&testbed.shards(&fleet.stream).await));
    let table = SeenTable::new(fleet.rows());
    let mut found = table.falls();
    found.extend(table.ahead(&delivered(&evidence)));
    found.extend(table.unseen(&evidence.logs));
    let log = evidence.delivery_log(|shard, token| table.checkpoint_at(shard, token).cloned());
    let tally = log
        .verdict()
        .map_err(|violation| found.push(violation.to_string()));
    assert_eq!(
        found,
        Vec::<String>::new(),
        "seed {seed}, logs in {}",
        fleet.folder().display()
    );
    let tally = tally.expect("nothing was found");
    let begun = evidence.logs.iter().flatten();
    let begun = begun.filter(|entry| entry.event.begins());
    let shards: BTreeSet<&str> = begun.map(|entry| entry.shard.as_str()).collect();
    let round = Round {
        seed,
        injected,
        disturbed: fleet.disturbed(),
        records: tally.put,
        duplicates: tally.redelivered,
        changes: tally.ownerships - u64::try_from(shards.len()).expect("a few"),
        writes: u64::try_from(table.writes()).expect("some"),
        overlap: tally.longest_overlap.as_secs_f64(),
        heal: healed,
        took: clock.now().saturating_since(began),
    };
    fleet.remove().await;
    round
}

fn evidence(fleet: &ChaosFleet, lineage: Lineage) -> Evidence {
    Evidence {
        puts: fleet.producer.puts(),
        logs: fleet.processes.iter().map(Process::entries).collect(),
        lineage,
    }
}

/// Every record that was put, by shard and in order, and when it was first delivered: in milliseconds since 1970.
fn delivered(evidence: &Evidence) -> BTreeMap<String, Vec<(RecordPosition, Option<i64>)>> {
    let mut first: BTreeMap<(&str, RecordPosition), i64> = BTreeMap::new();
    for entry in evidence.logs.iter().flatten() {
        if let Event::Record { position, .. } = &entry.event {
            let at = (entry.time * 1000.0).round() as i64;
            let known = first.entry((&entry.shard, position.clone())).or_insert(at);
            *known = at.min(*known);
        }
    }
    let mut delivered: BTreeMap<String, Vec<(RecordPosition, Option<i64>)>> = BTreeMap::new();
    for Put { shard, position, .. } in &evidence.puts {
        let at = first.get(&(shard.as_str(), position.clone())).copied();
        let records = delivered.entry(shard.clone()).or_default();
        records.push((position.clone(), at));
    }
    delivered.values_mut().for_each(|records| records.sort());
    delivered
}

/// Waits until everything that was put before the call was delivered. Puts during the wait do not count: there would always be more.
async fn everything_is_seen(fleet: &mut ChaosFleet) {
    let puts = fleet.producer.puts();
    until(fleet, BOUND, async |fleet| {
        let evidence = Evidence {
            puts: puts.clone(),
            ..evidence(fleet, Lineage::new())
        };
        let lost = evidence.lost();
        lost.first().map_or(Ok(()), |first| {
            Err(format!("{} records, the first: {first}", lost.len()))
        })
    })
    .await;
}

/// Waits until each open shard has given a record that was put after this was called to a worker that runs.
async fn every_shard_is_consumed(fleet: &mut ChaosFleet) {
    let open = fleet.testbed.open_shards(&fleet.stream).await;
    let before = fleet.producer.puts().len();
    until(fleet, BOUND, async |fleet| {
        let puts = fleet.producer.puts();
        let mut newest = Vec::new();
        for shard in open.iter().map(Shard::shard_id) {
            let new = puts[before..].iter().find(|put| put.shard == shard);
            newest.push(
                new.cloned()
                    .ok_or_else(|| format!("nothing was put into {shard}"))?,
            );
        }
        let evidence = Evidence {
            puts: newest,
            logs: fleet.running().map(|(_, process)| process.entries()).collect(),
            lineage: Lineage::new(),
        };
        if let Some(first) = evidence.lost().first() {
            return Err(format!("a shard is not consumed: {first}"));
        }
        Ok(())
    })
    .await;
}

/// Waits until the lease table names a running worker for each open shard, and its log says so, too; and until no shard that is closed is owned.
async fn the_living_own_every_shard(fleet: &mut ChaosFleet) {
    let open = fleet.testbed.open_shards(&fleet.stream).await;
    let open: BTreeSet<&str> = open.iter().map(Shard::shard_id).collect();
    let config = fleet.testbed.dynamo_config();
    until(fleet, BOUND, async |fleet| {
        let owners = owners(&config, &fleet.application).await?;
        for shard in &open {
            let owner = owners.get(*shard).and_then(Option::as_ref);
            let owner = owner.ok_or_else(|| format!("{shard} has no owner"))?;
            let worker = fleet.running().find(|(id, _)| id == owner);
            let (_, process) = worker.ok_or_else(|| format!("{shard} belongs to {owner}, which is gone"))?;
            if !held(&process.entries()).contains(shard) {
                return Err(format!("{owner} owns {shard} and does not consume it"));
            }
        }
        let stuck = owners
            .iter()
            .find(|(shard, owner)| owner.is_some() && !open.contains(shard.as_str()));
        stuck.map_or(Ok(()), |(shard, _)| {
            Err(format!("{shard} is closed and does not end"))
        })
    })
    .await;
}

/// A worker that leaves in order gives up its leases.
async fn nobody_owns_anything(fleet: &ChaosFleet) {
    let owners = owners(&fleet.testbed.dynamo_config(), &fleet.application).await;
    let owned: Vec<_> = owners
        .expect("the lease table is readable")
        .into_iter()
        .filter(|(_, owner)| owner.is_some())
        .collect();
    assert!(owned.is_empty(), "leases that were not released: {owned:?}");
}
