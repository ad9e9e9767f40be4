//! The last calls of a consumer: the end of the shard, the drain of a lease that is given up, the word of one that is lost.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::consumer::shard_consumer::ShardConsumer;
use crate::consumer::shard_end::store_end;
use crate::error::Causes;
use crate::lifecycle::ConsumerEvent;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::ownership::checkpoints::CallStart;
use crate::ownership::control::Interrupt;
use crate::ownership::release::give_up;
use crate::processor::{EndOfShard, FailedCall, FailureKind, RecordBatch};
use crate::runtime::failpoint::failpoint;
use crate::runtime::task_scope::TaskPlace;
use crate::status::WaitReason;

impl ShardConsumer {
    pub(crate) async fn end_shard(&mut self) -> ConsumerEvent {
        if let Some(event) = self.wait_after_failure().await {
            return event;
        }
        self.own.consumer_waits(WaitReason::Callback);
        let ended = {
            let _callback = self.own.enter_callback();
            tokio::select! {
                biased;
                interrupt = self.own.lost_or_aborted() => Err(interrupt),
                ended = self.delivery.end() => Ok(ended),
            }
        };
        match ended {
            Err(Interrupt::Abort) => self.dropped("shard_ended"),
            Err(interrupt) => self.interrupted(interrupt),
            Ok(Ok(end)) => {
                if end == EndOfShard::AllFinished {
                    self.own.finish_all();
                }
                self.failures = 0;
                self.call_returned(FailedCall::ShardEnded);
                ConsumerEvent::CallReturned
            }
            Ok(Err(failure)) => self.call_failed(FailedCall::ShardEnded, failure),
        }
    }

    /// Waits until everything that was delivered is finished: with manual checkpoints the user's code may still be busy with it.
    pub(crate) async fn await_checkpoints(&mut self) -> ConsumerEvent {
        let own = Arc::clone(&self.own);
        // After a tick that failed.
        if let Some(event) = self.wait_after_failure().await {
            return event;
        }
        while !own.is_all_finished() && !failpoint!(EndBeforeCheckpoints) {
            self.own.consumer_waits(WaitReason::Checkpoints);
            let ticks = tokio::select! {
                biased;
                interrupt = own.interrupted() => return self.interrupted(interrupt),
                () = own.finished_more.notified() => false,
                () = self.until_tick() => true,
            };
            if ticks && let Some(event) = self.tick().await {
                return event;
            }
        }
        ConsumerEvent::AllFinished
    }

    pub(crate) async fn store_end(&mut self) -> ConsumerEvent {
        self.own.consumer_waits(WaitReason::Draining);
        let end = self.end.clone().unwrap_or_default();
        let own = Arc::clone(&self.own);
        let ending = Arc::clone(&own);
        let name = format!("ending {}", own.key);
        let scope = &own.worker.scope;
        let stored = scope.run_at(TaskPlace::Coordination, name, async move {
            store_end(&ending, &end).await
        });
        tokio::select! {
            biased;
            interrupt = own.lost_or_aborted() => self.interrupted(interrupt),
            event = stored => event,
        }
    }

    pub(crate) async fn drain(&mut self) -> ConsumerEvent {
        if let Some(event) = self.offer_gathered().await {
            return event;
        }
        self.own.consumer_waits(WaitReason::Draining);
        // Not a callback during which a handoff may be declined: a processor that must finish is not given more.
        let drained = tokio::select! {
            biased;
            interrupt = self.own.lost_or_aborted() => Err(interrupt),
            drained = self.delivery.drain() => Ok(drained),
        };
        match drained {
            Err(Interrupt::Abort) => self.dropped("shutdown_requested"),
            Err(interrupt) => self.interrupted(interrupt),
            Ok(Ok(())) => ConsumerEvent::CallReturned,
            Ok(Err(failure)) => {
                tracing::warn!(error = %Causes(failure.error.as_ref()), "shutdown_requested failed");
                ConsumerEvent::CallFailed
            }
        }
    }

    /// Offers what was gathered, before the last call: these records have waited already, and need not wait for the next owner. After a
    /// failure they do.
    async fn offer_gathered(&mut self) -> Option<ConsumerEvent> {
        let gathered = self.fetched.take()?.into_gathered();
        if self.own.worker.settings.processing.batching.is_none() || self.failures > 0 {
            return None;
        }
        if let Some((id, batch)) = self.waiting.take() {
            match self.offer_last(id, batch).await {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(event) => return event,
            }
        }
        let gathered = Arc::new(gathered?);
        let own = Arc::clone(&self.own);
        let id = own.deliver(Arc::clone(&gathered));
        let batch = RecordBatch::new(gathered, id.first_number(), own);
        if failpoint!(GatheredBatchDropped) {
            self.finished(id, &batch, Duration::ZERO, true);
            return None;
        }
        match self.offer_last(id, batch).await {
            ControlFlow::Continue(()) => None,
            ControlFlow::Break(event) => event,
        }
    }

    /// Offers records of a lease that is given up. Breaks where nothing more may be offered, with the event if there is no last call either.
    async fn offer_last(&mut self, id: BatchId, batch: RecordBatch) -> ControlFlow<Option<ConsumerEvent>> {
        let mut left = self.pass_finished(id, batch);
        while let Some((batch, until_aside)) = left {
            let part = batch.first_part(until_aside);
            let (_, to) = part.place();
            // A handoff that is declined meanwhile would leave records of which the drain is done: no callback that can be waited for.
            if self.own.start_call(id, to, true) != CallStart::Started {
                return ControlFlow::Break(None);
            }
            let begun = self.now();
            let offered = tokio::select! {
                biased;
                () = self.own.aborted() => None,
                offered = self.delivery.offer(part.clone()) => Some(offered),
            };
            let took = self.now().saturating_since(begun);
            let rest = batch.starting_at(part.len());
            match offered {
                None => return ControlFlow::Break(Some(self.dropped("process_records"))),
                Some(Ok(())) => self.finished(id, &part, took, rest.is_empty()),
                Some(Err(failure)) => {
                    let panicked = failure.kind == FailureKind::Panic;
                    self.own.worker.metrics.batch_failed(panicked);
                    self.after_failure(&part, &failure);
                    let left = batch.len();
                    tracing::warn!(left, panicked, error = %Causes(failure.error.as_ref()),
                        "failed call before the lease is given up; the next owner tries again");
                    // A processor that panicked is gone.
                    return ControlFlow::Break(panicked.then_some(ConsumerEvent::Panicked));
                }
            }
            left = match rest.is_empty() {
                true => None,
                false => self.pass_finished(id, rest),
            };
        }
        ControlFlow::Continue(())
    }

    /// Stores the last checkpoint, then hands the lease over or releases it; the renewer renews until that is done.
    pub(crate) async fn leave(&mut self) -> ConsumerEvent {
        self.own.consumer_waits(WaitReason::Draining);
        let own = Arc::clone(&self.own);
        let leaving = Arc::clone(&own);
        let name = format!("leaving {}", own.key);
        let scope = &own.worker.scope;
        let given_up = scope.run_at(
            TaskPlace::Coordination,
            name,
            async move { give_up(&leaving).await },
        );
        tokio::select! {
            biased;
            // The worker waits no longer.
            () = own.consumer_ended() => ConsumerEvent::Aborted,
            event = given_up => event,
        }
    }

    pub(crate) async fn lose(&mut self) -> ConsumerEvent {
        let own = Arc::clone(&self.own);
        self.own.consumer_waits(WaitReason::Draining);
        tokio::select! {
            biased;
            () = own.aborted() => self.dropped("lease_lost"),
            lost = async {
                self.let_calls_return().await;
                self.delivery.lose().await
            } => match lost {
                Ok(()) => ConsumerEvent::CallReturned,
                Err(failure) => {
                    tracing::warn!(error = %Causes(failure.error.as_ref()), "lease_lost failed");
                    ConsumerEvent::Panicked
                }
            },
        }
    }
}
