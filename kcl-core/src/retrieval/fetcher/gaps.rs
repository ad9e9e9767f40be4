//! The part of the fetcher that handles what retention took.

use std::sync::Arc;

use crate::retrieval::fetcher::Fetcher;
use crate::retrieval::gap_hold::{AfterGap, after_gap};
use crate::settings::RetentionGap;
use crate::source::Fetch;
use crate::status::WaitReason;
use crate::types::Gap;

impl Fetcher {
    /// Counts what retention may have taken, and says it. A gap that is read again is the same.
    pub(crate) fn report_gap(&self, gap: &Gap) {
        if !self.own.show_gap(gap) {
            return;
        }
        self.own.worker.metrics.gap();
        let first = gap.first.as_ref().map(ToString::to_string);
        tracing::warn!(after = %gap.after, first,
            "retention took the record at which reading was to go on, and may have taken others that were not read");
    }

    /// The gap before the records of this answer, if the shard is held at it.
    pub(crate) fn gap_to_hold_at(&self, fetch: &Fetch) -> Option<Gap> {
        let setting = self.own.worker.settings.reading.retention_gap;
        if setting == RetentionGap::Continue {
            return None;
        }
        let gap = self.place.gap_ahead(fetch)?;
        self.holds_at(&gap).then_some(gap)
    }

    fn holds_at(&self, gap: &Gap) -> bool {
        let setting = self.own.worker.settings.reading.retention_gap;
        after_gap(setting, gap, self.own.accepted_gap().as_ref()) == AfterGap::Hold
    }

    /// Holds the shard before its end, where retention took what came before that.
    pub(crate) async fn hold_at_lost_end(&mut self) {
        let lost = self.lost.clone().or_else(|| self.gap.clone());
        if let Some(gap) = lost.filter(|gap| gap.first.is_none() && self.holds_at(gap)) {
            self.hold_at(&gap).await;
        }
    }

    /// Holds the shard until an operator accepts the gap. The source is opened again afterwards, so that nothing is kept meanwhile.
    pub(crate) async fn hold_at(&mut self, gap: &Gap) {
        let own = Arc::clone(&self.own);
        let since = own.worker.clock.now();
        self.report_gap(gap);
        self.reopen();
        let accepted = own.worker.flow_control.gap_accepted(&own.scopes);
        let first = gap.first.as_ref().map(ToString::to_string);
        tracing::warn!(after = %gap.after, first, "holding the shard at the gap until it is accepted, as the setting retention_gap says");
        own.fetcher_waits(WaitReason::Gap);
        accepted.await;
        own.accept_gap(&gap.after);
        own.fetcher_goes_on();
        self.was_held_up(since);
        tracing::warn!(after = %gap.after, "going on behind the gap, which an operator has accepted");
    }
}
