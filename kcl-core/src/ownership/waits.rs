//! The commands to a consumer, and the reasons for which the consumer and its fetcher wait.

use std::time::Duration;

use crate::limits::flow_control::Blocked;
use crate::ownership::Ownership;
use crate::ownership::control::{Commands, DrainReason, Interrupt};
use crate::ownership::progress::{Activity, Progress};
use crate::runtime::clock::Moment;
use crate::status::WaitReason;

impl Ownership {
    /// Everything that runs is to be dropped: the time is up.
    pub(crate) fn abort(&self) {
        self.state.modify(|state| state.commands.abort());
    }

    /// The consumer must go on as one that has lost its lease.
    pub(crate) fn lose(&self) {
        self.state.modify(|state| state.commands.lose());
    }

    /// The consumer must begin again at the source.
    pub(crate) fn reopen(&self) {
        self.state.modify(|state| state.commands.reopen());
    }

    /// The consumer begins again at the source.
    pub(crate) fn reopened(&self) {
        let now = self.worker.clock.now();
        self.state.modify(|state| state.commands.reopened());
        self.change_progress(|progress| progress.begins_anew(now));
    }

    /// The consumer is done.
    pub(crate) fn end_consumer(&self) {
        self.state.modify(|state| state.commands.finish());
    }

    pub(crate) fn drain_reason(&self) -> Option<DrainReason> {
        self.read(|state| state.commands.drain_reason())
    }

    /// Returns the command that interrupts the consumer now, if there is one.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        self.read(|state| state.commands.interrupt())
    }

    /// Returns once something interrupts the consumer.
    pub(crate) async fn interrupted(&self) -> Interrupt {
        self.commanded(Commands::interrupt).await
    }

    /// Returns once everything that runs is to be dropped.
    pub(crate) async fn aborted(&self) {
        self.commanded(|commands| commands.is_aborted().then_some(()))
            .await;
    }

    /// Returns once the lease is to be given up.
    pub(crate) async fn draining(&self) {
        self.commanded(|commands| commands.drain_reason().map(drop)).await;
    }

    /// Returns once a command interrupts calls that run: `None` when the lease is to be given up and was not, or the other way round.
    pub(crate) async fn commanded_while(&self, is_draining: bool) -> Option<Interrupt> {
        self.commanded(|commands| match commands.interrupt() {
            Some(Interrupt::Drain) | None => {
                (commands.drain_reason().is_some() != is_draining).then_some(None)
            }
            interrupt => Some(interrupt),
        })
        .await
    }

    /// Whether the fetcher waits for room in the budget.
    pub(crate) fn is_fetcher_starved(&self) -> bool {
        self.read(|state| state.progress.is_fetcher_starved())
    }

    /// Returns once the lease is lost or everything that runs is to be dropped.
    pub(crate) async fn lost_or_aborted(&self) -> Interrupt {
        self.commanded(Commands::lost_or_aborted).await
    }

    /// Returns once the consumer is done.
    pub(crate) async fn consumer_ended(&self) {
        self.commanded(|commands| commands.is_done().then_some(())).await;
    }

    async fn commanded<T>(&self, look: impl Fn(&Commands) -> Option<T>) -> T {
        self.state.wait_for(|state| look(&state.commands)).await
    }

    /// The known facts about the progress of the consumer.
    pub(crate) fn activity(&self) -> Activity {
        self.read(|state| state.progress.activity())
    }

    /// A step is finished: an answer came, or a call returned.
    pub(crate) fn step(&self) {
        let now = self.worker.clock.now();
        self.with(|state| state.progress.step(now));
    }

    /// The consumer waits for records and nothing else.
    pub(crate) fn wants_records(&self) {
        let now = self.worker.clock.now();
        self.change_progress(|progress| progress.wants_records(now));
    }

    /// The consumer begins to wait for this, or keeps waiting. The renewer renews the lease on that word.
    pub(crate) fn consumer_waits(&self, reason: WaitReason) {
        let now = self.worker.clock.now();
        self.change_progress(|progress| progress.waits(reason, now));
    }

    /// The consumer of a handler waits for this, or for records if it is `None`; `begins_to_read` says that it did not before. The oldest of the
    /// calls that run began at `oldest`.
    pub(crate) fn calls_wait(
        &self,
        reason: Option<WaitReason>,
        oldest: Option<Moment>,
        begins_to_read: bool,
    ) {
        let now = self.worker.clock.now();
        self.change_progress(|progress| {
            if begins_to_read {
                progress.wants_records(now);
            }
            progress.calls_wait(reason, oldest, now);
        });
    }

    /// The consumer waits for nothing any more, which is a step.
    pub(crate) fn consumer_goes_on(&self) {
        let now = self.worker.clock.now();
        self.change_progress(|progress| progress.goes_on(now));
    }

    /// The consumer waits for nothing any more, which is no step.
    pub(crate) fn consumer_waits_no_more(&self) {
        self.change_progress(Progress::waits_no_more);
    }

    /// The fetcher begins to wait for this, or keeps waiting.
    pub(crate) fn fetcher_waits(&self, reason: WaitReason) {
        let now = self.worker.clock.now();
        self.change_progress(|progress| progress.fetcher_waits(reason, now));
    }

    /// The fetcher waits for nothing any more.
    pub(crate) fn fetcher_goes_on(&self) {
        let now = self.worker.clock.now();
        self.change_progress(|progress| progress.fetcher_goes_on(now));
    }

    /// Watchers of the status are woken by another reason to wait, and by nothing else here.
    fn change_progress(&self, change: impl FnOnce(&mut Progress)) {
        let is_new = self.with(|state| {
            let before = state.progress.waiting();
            change(&mut state.progress);
            state.progress.waiting() != before
        });
        if is_new {
            self.worker.status.changed();
        }
    }

    /// Nothing was asked of the source for so long, which says nothing about the shard.
    pub(crate) fn held_up(&self, time: Duration) {
        self.with(|state| state.idle_since = state.idle_since + time);
    }

    /// For how long the shard has had no record, as far as the source has said; zero while records are on their way to the processor.
    pub(crate) fn idle_for(&self) -> Duration {
        self.read(|state| {
            let caught_up = state.backlog.caught_up();
            caught_up.map_or(Duration::ZERO, |at| at.saturating_since(state.idle_since))
        })
    }

    /// Whether reading is paused.
    pub(crate) fn is_paused(&self) -> bool {
        let worker = &self.worker;
        worker.flow_control.hold(&self.scopes, worker.clock.now()) == Some(Blocked::Paused)
    }

    /// Returns once reading is paused.
    pub(crate) async fn paused(&self) {
        loop {
            let changed = self.worker.flow_control.changed();
            if self.is_paused() {
                return;
            }
            changed.await;
        }
    }

    /// Returns at the next time that the operator resumes this shard.
    pub(crate) async fn resumed(&self) {
        self.worker.flow_control.resumed(&self.scopes).await;
    }

    /// Whether reading is neither paused nor ahead of its rate.
    pub(crate) fn is_free(&self) -> bool {
        let worker = &self.worker;
        worker
            .flow_control
            .hold(&self.scopes, worker.clock.now())
            .is_none()
    }

    /// Waits until reading is neither paused nor ahead of its rate. `shown` says what is waited for. Returns `true` if it waited.
    pub(crate) async fn until_free(&self, heeds_rate: bool, shown: impl Fn(WaitReason)) -> bool {
        let worker = &self.worker;
        let mut waited = false;
        loop {
            let changed = worker.flow_control.changed();
            match worker.flow_control.hold(&self.scopes, worker.clock.now()) {
                Some(Blocked::Paused) => {
                    shown(WaitReason::Paused);
                    changed.await;
                }
                Some(Blocked::Until(until)) if heeds_rate => {
                    shown(WaitReason::RateLimit);
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = worker.clock.sleep_until(until) => {}
                    }
                }
                Some(Blocked::Until(_)) | None => return waited,
            }
            waited = true;
        }
    }
}
