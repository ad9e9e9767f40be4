//! Hands a leaving worker's leases to the others, so that each goes on elsewhere without waiting for a leader.

use std::time::Duration;

use crate::assignment::observer::Observer;
use crate::assignment::plan::{Candidate, Move, plan_departure};
use crate::consumer::Services;
use crate::error::Causes;
use crate::lease::{LeaseWriter as _, Outcome, Scan, StoreError};
use crate::time::ClockExt as _;

/// Begins a handoff for every lease that another live worker can take. What nobody can take is released when its consumer
/// is drained.
///
/// A worker row may be that of a dead worker, so only workers that were *seen* to touch theirs are given anything. That takes
/// a little more than a third of the failover time, in which the shards are processed as before.
pub(crate) async fn hand_over_all(services: &Services, limit: Duration) {
    let failover = services.settings.failover_time;
    let watched = failover / 3 + failover / 10;
    if watched >= limit {
        tracing::info!(
            ?limit,
            "too little time to see who else lives: the leases are released, not handed over"
        );
        return;
    }
    if let Err(error) = services
        .clock
        .timeout(limit, watch_and_begin(services, watched))
        .await
        .unwrap_or(Ok(()))
    {
        tracing::warn!(error = %Causes(&error), "the leases cannot be handed over; they are released");
    }
}

async fn watch_and_begin(services: &Services, watched: Duration) -> Result<(), StoreError> {
    let me = Candidate {
        id: services.worker.clone(),
        max_leases: services.settings.max_leases,
        max_throughput: services.settings.max_throughput,
        leaving: true,
        proven: true,
    };
    let mut observer = Observer::new(me, services.settings.failover_time, watched);
    let first = services.store.scan().await?;
    if is_alone(services, &first) {
        return Ok(());
    }
    observer.look(services.clock.now(), first);
    services.clock.sleep(watched).await;
    observer.look(services.clock.now(), services.store.scan().await?);

    let mut snapshot = observer.snapshot(0);
    snapshot.workers.retain(|worker| worker.proven);
    snapshot.leases.retain(|lease| {
        let row = observer.row(&lease.key);
        row.is_some_and(|row| services.streams.reads(row))
    });
    let mut outcome = Ok(());
    for step in plan_departure(&services.worker, &snapshot).moves {
        // What one lease meets with need not happen to the next.
        outcome = outcome.and(begin(services, &observer, step).await);
    }
    outcome
}

fn is_alone(services: &Services, scan: &Scan) -> bool {
    scan.workers.iter().all(|row| row.id == services.worker)
}

async fn begin(services: &Services, observer: &Observer, step: Move) -> Result<(), StoreError> {
    let Move {
        key,
        expect,
        change,
        to,
        ..
    } = step;
    let outcome = services
        .lanes
        .change(&key, observer.row(&key), expect, change)
        .await?;
    if let Outcome::Applied(row) = outcome {
        tracing::info!(lease = %key, from = %services.worker, %to, counter = row.counter, reason = "departure", "handoff begun");
    }
    Ok(())
}
