//! Gives a lease up: stores what is finished, then hands the lease over or releases it.

use crate::error::Causes;
use crate::lease::change::LeaseChange;
use crate::lease::row::Lease;
use crate::lease::store::StoreError;
use crate::lifecycle::ConsumerEvent;
use crate::ownership::Ownership;
use crate::ownership::row_writes::WriteResult;
use crate::runtime::clock::ClockExt as _;

/// Tries until it succeeds, or for a failover time: then the lease expires.
pub(crate) async fn give_up(own: &Ownership) -> ConsumerEvent {
    let clock = &own.worker.clock;
    let timing = &own.worker.timing;
    let until = clock.now() + timing.release;
    loop {
        match try_to_leave(own).await {
            Ok(event) => return event,
            Err(error) if clock.now() >= until => {
                tracing::warn!(error = %Causes(&error), "cannot give the lease up; it expires");
                return ConsumerEvent::Aborted;
            }
            Err(_) => clock.sleep(timing.release_retry).await,
        }
    }
}

async fn try_to_leave(own: &Ownership) -> Result<ConsumerEvent, StoreError> {
    let me = &own.worker.worker;
    if let Some(checkpoint) = own.checkpoint_with_ahead() {
        match own.write(checkpoint).await {
            WriteResult::Applied(_) => {}
            WriteResult::GivenUp(row) => return Ok(given_up(&row)),
            WriteResult::Lost => return Ok(ConsumerEvent::LeaseLost),
            WriteResult::Failed(error) => return Err(error),
        }
    }
    // A handoff that began unnoticed shows in the refusal of the release and is adopted there: a release during a
    // handoff leaves the next owner in place, so both ways end alike.
    let row = own.row();
    let change = match row.is_in_handoff() {
        true => LeaseChange::CompleteHandoff,
        false => LeaseChange::Release,
    };
    match own.write(change).await {
        WriteResult::Applied(row) => {
            let to = row.owner.as_ref().map(ToString::to_string);
            tracing::info!(from = %me, to, counter = row.counter, reason = "drained", "lease given up");
            Ok(given_up(&row))
        }
        WriteResult::GivenUp(row) => Ok(given_up(&row)),
        WriteResult::Lost => Ok(ConsumerEvent::LeaseLost),
        WriteResult::Failed(error) => Err(error),
    }
}

/// How the lease was given up, as the row shows it.
fn given_up(row: &Lease) -> ConsumerEvent {
    if row.is_ended() {
        ConsumerEvent::EndStored
    } else if row.owner.is_some() {
        ConsumerEvent::HandedOver
    } else {
        ConsumerEvent::Released
    }
}
