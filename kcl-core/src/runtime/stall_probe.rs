//! Whether a runtime runs what is due: asked of the user runtime, whose threads user code may block.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::runtime::clock::Moment;
use crate::runtime::lock::Locked;
use crate::runtime::watched::Watched;

/// The shortest part of a stall that counts against a task.
const NOTICED: Duration = Duration::from_millis(250);

/// A time in which a runtime ran nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuntimeStall {
    pub(crate) since: Moment,
    /// Until when, or until when it was looked at.
    pub(crate) until: Moment,
    /// Whether it was not over then.
    pub(crate) lasts: bool,
}

impl RuntimeStall {
    pub(crate) fn lasted(&self) -> Duration {
        self.until.saturating_since(self.since)
    }

    /// The part that lies in this time.
    fn overlap(&self, since: Moment, until: Moment) -> Duration {
        until.min(self.until).saturating_since(since.max(self.since))
    }
}

/// The health of a runtime, by how soon one of its tasks answers.
#[derive(Debug)]
pub(crate) struct StallProbe {
    /// How late an answer must be for a stall.
    late: Duration,
    state: Watched<ProbeState>,
}

#[derive(Debug, Default)]
struct ProbeState {
    /// When the runtime was asked, if it has not answered.
    asked: Option<Moment>,
    /// The longest stall that is over and was not looked at.
    over: Option<RuntimeStall>,
    /// When the last stall was over.
    resumed: Option<Moment>,
}

impl StallProbe {
    /// Returns a probe for which an answer so late is a stall.
    pub(crate) fn new(late: Duration) -> Self {
        Self {
            late,
            state: Watched::default(),
        }
    }

    /// Returns `true` if so long a time without a step of the runtime is a stall.
    pub(crate) fn is_late(&self, age: Duration) -> bool {
        age >= self.late
    }

    /// Asks the runtime, unless it still owes an answer.
    pub(crate) fn ask(&self, now: Moment) {
        self.state.modify(|state| {
            state.asked.get_or_insert(now);
        });
    }

    /// Answers, once it is asked.
    pub(crate) async fn answer(&self, now: impl Fn() -> Moment) {
        self.state
            .wait_until(|state| {
                let asked = state.asked.take()?;
                let now = now();
                let standstill = RuntimeStall {
                    since: asked,
                    until: now,
                    lasts: false,
                };
                if self.is_late(standstill.lasted()) {
                    state.resumed = Some(now);
                    let longest = state.over.map_or(Duration::ZERO, |over| over.lasted());
                    if standstill.lasted() > longest {
                        state.over = Some(standstill);
                    }
                }
                Some(())
            })
            .await;
    }

    /// The stall that lasts at `now`, or else the longest that is over since the last look.
    pub(crate) fn look(&self, now: Moment) -> Option<RuntimeStall> {
        self.state.modify_quietly(|state| {
            let lasting = self.lasting(state, now);
            lasting.or_else(|| state.over.take())
        })
    }

    /// Until when nothing follows from the silence of a task on the runtime: until now while the runtime stands still, unless it does so for longer
    /// than `patience`, and until it went on after that.
    pub(crate) fn excused_until(&self, now: Moment, patience: Duration) -> Moment {
        self.state.read(|state| match self.lasting(state, now) {
            Some(standstill) if standstill.lasted() < patience => now,
            Some(_) | None => state.resumed.unwrap_or(Moment::ZERO),
        })
    }

    fn lasting(&self, state: &ProbeState, now: Moment) -> Option<RuntimeStall> {
        let since = state.asked?;
        let standstill = RuntimeStall {
            since,
            until: now,
            lasts: true,
        };
        self.is_late(standstill.lasted()).then_some(standstill)
    }
}

/// The callbacks that may have a thread.
const CALLS: [&str; 8] = [
    "create",
    "initialize",
    "process_records",
    "handle",
    "tick",
    "shutdown_requested",
    "shard_ended",
    "lease_lost",
];

/// When the callbacks of a shard had a thread for themselves. It is written around each poll of a callback, so without a lock.
#[derive(Debug, Default)]
pub(crate) struct CallbackThread {
    /// The callback that has a thread, as its place in [`CALLS`] from 1 on in the lowest bits, and since how many nanoseconds; 0 for none.
    running: AtomicU64,
    /// The last one that had a thread for long, from when to when.
    last: Locked<Option<(&'static str, Moment, Moment)>>,
}

/// How many bits name a callback.
const CALL_BITS: u32 = 4;

impl CallbackThread {
    /// The callback is polled, from `now` on.
    pub(crate) fn begins(&self, call: &'static str, now: Moment) {
        let place = CALLS.iter().position(|known| *known == call);
        debug_assert!(place.is_some(), "{call} is no callback");
        let code = place.map_or(0, |place| place as u64 + 1);
        let nanos = u64::try_from(now.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.running.store(nanos << CALL_BITS | code, Ordering::Release);
    }

    /// The callback has given the thread back.
    pub(crate) fn ends(&self, now: Moment) {
        if let Some((call, since)) = running(self.running.load(Ordering::Acquire))
            && now.saturating_since(since) >= NOTICED
        {
            *self.last.lock() = Some((call, since, now));
        }
        // Afterwards: a look finds it in one of the two places.
        self.running.store(0, Ordering::Release);
    }

    /// The callback that had a thread in the stall, and for which part.
    pub(crate) fn held(&self, standstill: &RuntimeStall) -> Option<(&'static str, Duration)> {
        let running = running(self.running.load(Ordering::Acquire));
        let last = *self.last.lock();
        let running = running.map(|(call, since)| (call, standstill.overlap(since, standstill.until)));
        let last = last.map(|(call, since, until)| (call, standstill.overlap(since, until)));
        let longest = running
            .into_iter()
            .chain(last)
            .max_by_key(|(_, overlap)| *overlap);
        longest.filter(|(_, overlap)| *overlap >= NOTICED)
    }
}

/// The callback that a number stands for, and since when it has a thread.
fn running(coded: u64) -> Option<(&'static str, Moment)> {
    let place = (coded & ((1 << CALL_BITS) - 1)).checked_sub(1)?;
    let call = CALLS.get(usize::try_from(place).ok()?)?;
    let since = Moment::from_origin(Duration::from_nanos(coded >> CALL_BITS));
    Some((call, since))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    async fn asked_and_answered(pulse: &StallProbe, asked: u64, answered: u64) {
        pulse.ask(at(asked));
        pulse.answer(|| at(answered)).await;
    }

    fn between(since: u64, until: u64) -> RuntimeStall {
        RuntimeStall {
            since: at(since),
            until: at(until),
            lasts: false,
        }
    }

    #[tokio::test]
    async fn a_late_answer_is_a_standstill_once() {
        let pulse = StallProbe::new(Duration::from_secs(1));
        asked_and_answered(&pulse, 0, 999).await;
        assert_eq!(pulse.look(at(1000)), None);
        asked_and_answered(&pulse, 1000, 2000).await;
        asked_and_answered(&pulse, 2000, 5000).await;
        asked_and_answered(&pulse, 5000, 5001).await;
        assert_eq!(pulse.look(at(6000)), Some(between(2000, 5000)));
        assert_eq!(pulse.look(at(6000)), None);
    }

    #[tokio::test]
    async fn silence_is_excused_during_and_before_a_standstill() {
        let pulse = StallProbe::new(Duration::from_secs(1));
        let patience = Duration::from_secs(60);
        pulse.ask(at(1000));
        pulse.ask(at(2000));
        assert_eq!(pulse.excused_until(at(1999), patience), Moment::ZERO);
        assert_eq!(pulse.excused_until(at(2000), patience), at(2000));
        let lasting = RuntimeStall {
            lasts: true,
            ..between(1000, 2000)
        };
        assert_eq!(pulse.look(at(2000)), Some(lasting));
        assert_eq!(
            pulse.excused_until(at(61_000), patience),
            Moment::ZERO,
            "no longer"
        );
        pulse.answer(|| at(62_000)).await;
        assert_eq!(pulse.excused_until(at(90_000), patience), at(62_000));
    }

    #[test]
    fn the_callback_that_had_the_thread_is_found() {
        let on_thread = CallbackThread::default();
        on_thread.begins("process_records", at(0));
        on_thread.ends(at(10));
        assert_eq!(on_thread.held(&between(0, 1000)), None);
        on_thread.begins("process_records", at(100));
        let second = Duration::from_secs(1);
        assert_eq!(
            on_thread.held(&between(200, 1200)),
            Some(("process_records", second))
        );
        on_thread.ends(at(1100));
        on_thread.begins("shard_ended", at(1100));
        assert_eq!(
            on_thread.held(&between(100, 1200)),
            Some(("process_records", second))
        );
        assert_eq!(on_thread.held(&between(1200, 1300)), None);
    }
}
