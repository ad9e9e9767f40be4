//! Hands a leaving worker's leases to the others, so that each goes on elsewhere without waiting for a leader.

use std::time::Duration;

use crate::coordinator::assignment::assignment_plan::Move;
use crate::coordinator::assignment::plan::plan_departure;
use crate::coordinator::assignment::snapshot::Candidate;
use crate::coordinator::table_view::TableView;
use crate::error::Causes;
use crate::lease::store::{Outcome, Scan, StoreError};
use crate::ownership::WorkerContext;
use crate::runtime::clock::ClockExt as _;

/// Begins a handoff for every lease that another live worker can take. A lease that no worker can take is released when its consumer
/// is drained.
///
/// A worker row may be that of a dead worker, so only workers that were *seen* to touch theirs are given anything. That takes
/// a little more than a third of the failover time, in which the shards are processed as before.
pub(crate) async fn hand_over_all(worker: &WorkerContext, limit: Duration) {
    let watched = worker.timing.handover_watch;
    if watched >= limit {
        tracing::info!(
            ?limit,
            "too little time to see who else lives: the leases are released, not handed over"
        );
        return;
    }
    if let Err(error) = worker
        .clock
        .timeout(limit, Box::pin(watch_and_begin(worker, watched, limit)))
        .await
        .unwrap_or(Ok(()))
    {
        tracing::warn!(error = %Causes(&error), "the leases cannot be handed over; they are released");
    }
}

async fn watch_and_begin(
    worker: &WorkerContext,
    watched: Duration,
    limit: Duration,
) -> Result<(), StoreError> {
    let me = Candidate {
        id: worker.worker.clone(),
        max_leases: worker.settings.assignment.max_leases,
        max_throughput: worker.settings.assignment.max_throughput_kib(),
        leaving: true,
        proven: true,
    };
    let mut observer = TableView::new(me, worker.timing.failover, watched);
    let first = worker.store_client.scan(limit).await?;
    if is_alone(worker, &first) {
        return Ok(());
    }
    observer.look(worker.clock.now(), first);
    worker.clock.sleep(watched).await;
    observer.look(worker.clock.now(), worker.store_client.scan(limit).await?);

    let mut snapshot = observer.snapshot(0);
    snapshot.workers.retain(|worker| worker.proven);
    snapshot.leases.retain(|lease| {
        let row = observer.row(&lease.key);
        row.is_some_and(|row| worker.streams.reads(row))
    });
    let mut outcome = Ok(());
    for step in plan_departure(&worker.worker, &snapshot).moves {
        // What one lease meets with need not happen to the next.
        outcome = outcome.and(begin(worker, &observer, step).await);
    }
    outcome
}

fn is_alone(worker: &WorkerContext, scan: &Scan) -> bool {
    scan.workers.iter().all(|row| row.id == worker.worker)
}

async fn begin(worker: &WorkerContext, observer: &TableView, step: Move) -> Result<(), StoreError> {
    let Move {
        key,
        expect,
        change,
        to,
        ..
    } = step;
    let outcome = worker
        .store_client
        .change(&key, observer.row(&key), expect, change)
        .await?;
    if let Outcome::Applied(row) = outcome {
        tracing::info!(lease = %key, from = %worker.worker, %to, counter = row.counter, reason = "departure", "handoff begun");
    }
    Ok(())
}
