//! The part of the fetcher that handles the end of its shard, and what retention took.

use std::sync::Arc;
use std::time::Duration;

use crate::lease::shard_end_plan::children_from_listing;
use crate::retrieval::end_check::{EndEvidence, EndStep, ListingEvidence};
use crate::retrieval::fetcher::Fetcher;
use crate::runtime::clock::{ClockExt as _, Moment};
use crate::source::{ChildShard, EndDoubt, ShardEnd};
use crate::streams::listing::Listing;
use crate::types::Gap;

/// How long nothing may come before a reader asks whether its shard is closed.
const IDLE: Duration = Duration::from_secs(10);

impl Fetcher {
    /// Asks the listing whether the shard has ended, where the source says so and shows no children, or has brought nothing for a while.
    pub(crate) async fn look_into_end(&mut self) -> Option<ShardEnd> {
        let own = Arc::clone(&self.own);
        let (clock, source, shard) = (&*own.worker.clock, &*own.stream.source, own.context.shard());
        let listed = |listing: &Listing| ListingEvidence::of(shard, listing.as_deref());
        let next = if self.watch.is_asked() {
            // An answer has come lately. Nothing would be better at another worker.
            own.step();
            let listed = match self.watch.needs_listing() {
                false => ListingEvidence::Closed,
                true => {
                    let listing = own.stream.listing.recent(source, clock).await;
                    if let (ListingEvidence::Not, Ok(graph)) = (listed(&listing), &listing) {
                        self.look_for_heirs(&children_from_listing(graph, shard));
                    }
                    listed(&listing)
                }
            };
            own.step();
            self.watch.looked(listed)
        } else if self.is_idle() {
            let listing = own.stream.listing.if_due(source, clock).await?;
            self.looked = clock.now();
            self.watch.idled(listed(&listing))
        } else {
            return None;
        };
        match next {
            EndStep::End(end) => {
                tracing::info!("the shard is not listed any more; it ends with the children that are known");
                return Some(end);
            }
            EndStep::ReadOn => {}
            // Another LATEST would be another place.
            EndStep::Reopen { .. } if !self.place.is_fixed() => self.doubt(Some(EndDoubt::NoEnd)),
            EndStep::Reopen { after, doubt } => {
                self.doubt(doubt);
                self.reopen();
                let after = self
                    .rng
                    .jittered(after)
                    .min(own.worker.settings.reading.stall_timeout / 2);
                clock.sleep(after).await;
            }
        }
        None
    }

    /// Observes the children of a shard that is not listed. Reports that records may be lost, where the shard is gone.
    fn look_for_heirs(&mut self, listed: &ShardEnd) {
        let own = Arc::clone(&self.own);
        if !self.watch.gone(&own.row(), listed.clone()) {
            return;
        }
        own.worker.metrics.shards_gone(1);
        let after = self.place.done().map(|done| done.position.sequence.detached());
        match after {
            Some(after) => {
                let gap = Gap { after, first: None };
                self.report_gap(&gap);
                self.lost = Some(gap);
            }
            None => tracing::warn!("the shard is gone, and no record of it was read"),
        }
    }

    /// The source was asked for nothing since then: the processor was busy, the shard paused, or there was no room.
    pub(crate) fn was_held_up(&mut self, since: Moment) {
        let time = self.own.worker.clock.now().saturating_since(since);
        if !time.is_zero() {
            self.own.held_up(time);
            self.idle_since = self.idle_since + time;
            self.looked = self.looked + time;
        }
    }

    /// Whether nothing has come for so long that the shard may be closed and the source does not say so.
    fn is_idle(&self) -> bool {
        let since = self.idle_since.max(self.looked);
        self.own.worker.clock.now().saturating_since(since) >= IDLE
    }

    /// Shows why it is not known whether the shard has ended.
    pub(crate) fn doubt(&self, doubt: Option<EndDoubt>) {
        if self.own.show_end_in_doubt(doubt)
            && let Some(doubt) = doubt
        {
            tracing::warn!(%doubt, "cannot tell whether the shard has ended; the worker goes on asking");
        }
    }

    /// The end of the shard, if the answer ends it for certain.
    pub(crate) fn judge_end(&mut self, end: Option<ShardEnd>, named: Vec<ChildShard>) -> Option<ShardEnd> {
        if end.is_none() && named.is_empty() {
            if self.watch.went_on() {
                self.doubt(None);
            }
            return None;
        }
        let (row, now) = (self.own.row(), self.own.worker.clock.now());
        match self.watch.told(&row, self.place.shown(), now, end, named) {
            EndEvidence::Nothing => None,
            EndEvidence::Ended(end) => Some(end),
            EndEvidence::Claim => {
                self.own.worker.metrics.end_claimed();
                tracing::debug!("the source claims the end of the shard and shows no children that fit");
                None
            }
        }
    }
}
