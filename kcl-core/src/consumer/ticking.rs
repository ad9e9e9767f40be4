//! Calls the processor because time has passed.

use std::sync::Arc;

use futures_util::future::poll_immediate;

use crate::consumer::shard_consumer::ShardConsumer;
use crate::lifecycle::ConsumerEvent;
use crate::ownership::validity::Validity;
use crate::processor::FailedCall;
use crate::status::WaitReason;

impl ShardConsumer {
    /// Calls the processor because time has passed.
    pub(crate) async fn tick(&mut self) -> Option<ConsumerEvent> {
        let own = Arc::clone(&self.own);
        // What it may do then belongs to the owner of the lease.
        let called = match own.verdict() {
            Validity::GoOn { .. } => {
                own.context.set_idle_for(own.idle_for());
                let _callback = own.enter_callback();
                let mut call = self.delivery.tick();
                // Most have nothing to do: that is no wait, and nobody is woken by it.
                match poll_immediate(&mut call).await {
                    Some(called) => called,
                    None => {
                        own.consumer_waits(WaitReason::Tick);
                        let called = tokio::select! {
                            biased;
                            () = own.aborted() => {
                                drop(call);
                                return Some(self.dropped("tick"));
                            }
                            called = &mut call => called,
                        };
                        // No step: it says nothing about the reading.
                        own.consumer_waits_no_more();
                        called
                    }
                }
            }
            Validity::Suspended | Validity::Lost => Ok(()),
        };
        self.delay_tick();
        match called {
            Ok(()) => {
                self.call_returned(FailedCall::Tick);
                // A batch that failed is still to come.
                if self.failures > 0 && self.waiting.is_none() && self.unreadable.is_none() {
                    self.failures = 0;
                    self.show_failures();
                }
                None
            }
            Err(failure) => Some(self.call_failed(FailedCall::Tick, failure)),
        }
    }

    /// Returns when a tick is due.
    pub(crate) fn until_tick(&self) -> impl Future<Output = ()> + use<> {
        let (own, due) = (Arc::clone(&self.own), self.tick_due);
        async move { own.worker.clock.sleep_until(due).await }
    }

    pub(crate) fn delay_tick(&mut self) {
        self.tick_due = self.now() + self.own.worker.settings.processing.tick_interval;
    }
}
