//! The status of a held lease, computed when it is asked for.

use crate::ownership::Ownership;
use crate::ownership::facts::LeaseFacts;
use crate::runtime::clock::Moment;
use crate::source::EndDoubt;
use crate::status::LeaseStatus;
use crate::status::issues::IssueThresholds;
use crate::types::{Gap, SequenceNumber};

impl Ownership {
    /// The status of the lease at `now`.
    pub(crate) fn status(&self, now: Moment) -> LeaseStatus {
        let mut status = self.read(|state| {
            let facts = &state.facts;
            LeaseStatus {
                state: facts.state,
                waiting: state.progress.waiting(),
                token: self.token(),
                suspended: state.suspended,
                checkpoint: state.known.row().checkpoint.clone(),
                processed: facts.processed.clone(),
                records: facts.records,
                unfinished: state.tracker.unfinished(),
                unfinished_since: state.backlog.unfinished_since(),
                behind: state.backlog.unread(),
                freshness: state.backlog.unfinished(),
                trouble: facts.trouble,
                failures: facts.failures,
                unreadable: facts.unreadable.clone(),
                failing: facts.failing.clone(),
                parked: facts.parked,
                dead_letters: facts.dead_letters,
                skipped: facts.skipped,
                stalls: facts.stalls,
                end_in_doubt: facts.end_in_doubt,
                gap: facts.gap.clone(),
                expires: facts.expires,
                concern: None,
            }
        });
        status.judge(now, IssueThresholds::of(&self.worker.settings));
        status
    }

    /// Changes the facts that the status shows, and wakes the tasks that wait for a change of the status.
    pub(crate) fn show(&self, change: impl FnOnce(&mut LeaseFacts)) {
        self.with(|state| change(&mut state.facts));
        self.worker.status.changed();
    }

    /// Shows the gap at which reading goes on, or is held. Returns `true` if another one, or none, was shown before.
    pub(crate) fn show_gap(&self, gap: &Gap) -> bool {
        let before = self.with(|state| state.facts.gap.replace(gap.clone()));
        self.worker.status.changed();
        before.is_none_or(|before| before.after != gap.after)
    }

    /// Where the last gap begins that an operator accepted in this ownership.
    pub(crate) fn accepted_gap(&self) -> Option<SequenceNumber> {
        self.read(|state| state.accepted_gap.clone())
    }

    /// An operator has accepted the gap that begins here.
    pub(crate) fn accept_gap(&self, after: &SequenceNumber) {
        self.with(|state| state.accepted_gap = Some(after.detached()));
    }

    /// Shows when retention takes the oldest record that the held shard has not finished.
    pub(crate) fn show_expiry(&self, expires: Option<Moment>) {
        let is_new = self.with(|state| std::mem::replace(&mut state.facts.expires, expires) != expires);
        if is_new {
            self.worker.status.changed();
        }
    }

    /// Shows why it is not known whether the shard has ended. Returns `true` if that is new.
    pub(crate) fn show_end_in_doubt(&self, doubt: Option<EndDoubt>) -> bool {
        let is_new = self.with(|state| std::mem::replace(&mut state.facts.end_in_doubt, doubt) != doubt);
        if is_new {
            self.worker.status.changed();
        }
        is_new
    }
}
