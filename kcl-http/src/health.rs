//! Whether a worker is alive, and whether it is ready.

use std::time::Duration;

use kcl_core::status::{Phase, WorkerStatus};

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) is_good: bool,
    /// The reason, in words for people.
    pub(crate) reason: String,
}

impl Verdict {
    fn good(reason: impl Into<String>) -> Self {
        Self {
            is_good: true,
            reason: reason.into(),
        }
    }

    fn bad(reason: impl Into<String>) -> Self {
        Self {
            is_good: false,
            reason: reason.into(),
        }
    }
}

/// Judges whether a restart would mend anything. A runtime that stands still for longer than `bound` is taken for one that never goes on.
pub(crate) fn liveness(status: &WorkerStatus, bound: Duration) -> Verdict {
    if status.phase == Phase::Stopped {
        return Verdict::bad("the worker has stopped, and its process has not");
    }
    let Some(stood) = status.standstill.map(|since| status.at.saturating_since(since)) else {
        return Verdict::good("alive");
    };
    let (stood_secs, bound_secs) = (stood.as_secs(), bound.as_secs());
    let stands = format!(
        "the runtime of the processors has run nothing for {stood_secs} s, because code blocks its threads"
    );
    if stood > bound {
        Verdict::bad(format!("{stands}; the bound is {bound_secs} s"))
    } else {
        Verdict::good(format!("alive: {stands}; it counts as dead after {bound_secs} s"))
    }
}

/// Judges whether the worker consumes.
pub(crate) fn readiness(status: &WorkerStatus) -> Verdict {
    let leases = match status.leases.len() {
        1 => "1 lease".to_owned(),
        leases => format!("{leases} leases"),
    };
    match status.phase {
        Phase::Running => Verdict::good(format!("ready: the worker is running and holds {leases}")),
        Phase::Starting => {
            Verdict::bad("not ready: the worker is starting, and looks for its stream and its lease table")
        }
        Phase::Draining => Verdict::bad(format!(
            "not ready: the worker is draining and still holds {leases}"
        )),
        Phase::Stopped => Verdict::bad("not ready: the worker has stopped"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kcl_core::clock::{Clock as _, Moment, TokioClock};
    use kcl_core::types::WorkerId;

    use super::*;

    const BOUND: Duration = Duration::from_secs(300);

    fn status(phase: Phase, stands_for: Option<Duration>) -> WorkerStatus {
        let since: Moment = TokioClock::new().now();
        WorkerStatus {
            worker: WorkerId::new("worker-1").unwrap(),
            at: since + stands_for.unwrap_or_default(),
            phase,
            is_leader: false,
            leases: BTreeMap::new(),
            failover_bound: None,
            unplaced: 7,
            standstill: stands_for.map(|_| since),
        }
    }

    #[test]
    fn only_stop_and_long_standstill_end_liveness() {
        let alive = |phase, stands_for| liveness(&status(phase, stands_for), BOUND).is_good;
        for phase in [Phase::Starting, Phase::Running, Phase::Draining] {
            assert!(alive(phase, None), "{phase:?}");
            assert!(alive(phase, Some(BOUND)), "{phase:?}");
            assert!(!alive(phase, Some(BOUND + Duration::from_millis(1))), "{phase:?}");
        }
        assert!(!alive(Phase::Stopped, None));
        let dead = liveness(&status(Phase::Running, Some(Duration::from_secs(312))), BOUND);
        assert!(
            dead.reason.contains("312 s") && dead.reason.contains("bound is 300 s"),
            "{dead:?}"
        );
    }

    #[test]
    fn worker_is_ready_while_it_runs() {
        let ready = |phase| readiness(&status(phase, Some(BOUND * 2)));
        assert!(ready(Phase::Running).is_good);
        for (phase, word) in [
            (Phase::Starting, "starting"),
            (Phase::Draining, "draining"),
            (Phase::Stopped, "stopped"),
        ] {
            let verdict = ready(phase);
            assert!(!verdict.is_good && verdict.reason.contains(word), "{verdict:?}");
        }
    }
}
