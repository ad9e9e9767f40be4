//! The request to stop a worker: how urgent it is, and who waits for it.

use std::convert::Infallible;

use crate::runtime::watched::Watched;

/// The name of the task that outlives all others of its worker.
pub(crate) const TASK: &str = "worker";

/// How urgently a worker is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    Never,
    /// After its callbacks have returned.
    Drain,
    /// At once.
    Now,
}

/// Stops a worker. A request to stop at once outranks one to drain.
#[derive(Debug)]
pub(crate) struct StopSignal {
    asked: Watched<Stop>,
    /// The signals of the process, until the worker listens to them: where it coordinates, since code may block the runtime of its handle.
    #[cfg(feature = "signal")]
    signals: Watched<Option<crate::worker::signal::Signals>>,
}

impl StopSignal {
    pub(crate) fn new() -> Self {
        Self {
            asked: Watched::new(Stop::Never),
            #[cfg(feature = "signal")]
            signals: Watched::new(None),
        }
    }

    /// Lets the signals of the process stop the worker.
    #[cfg(feature = "signal")]
    pub(crate) fn listen(&self, signals: crate::worker::signal::Signals) {
        self.signals.modify(|given| *given = Some(signals));
    }

    /// Asks the worker to stop when a signal comes, once the worker is to listen to them.
    #[cfg(feature = "signal")]
    pub(crate) async fn heed_signals(&self) -> Infallible {
        let mut signals = self.signals.wait_until(Option::take).await;
        for asked in [Stop::Drain, Stop::Now] {
            let name = signals.next().await;
            tracing::info!(signal = name, at_once = asked == Stop::Now, "stopping");
            self.ask(asked);
        }
        std::future::pending().await
    }

    #[cfg(not(feature = "signal"))]
    pub(crate) async fn heed_signals(&self) -> Infallible {
        std::future::pending().await
    }

    pub(crate) fn ask(&self, stop: Stop) {
        self.asked.modify(|asked| *asked = (*asked).max(stop));
    }

    /// Returns once the worker is to stop this urgently, or more so.
    pub(crate) async fn asked(&self, at_least: Stop) {
        self.asked
            .wait_for(|asked| (*asked >= at_least).then_some(()))
            .await;
    }
}
