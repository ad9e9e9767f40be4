//! The last look at one application, which all browsers are shown.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_operations::FleetView;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::failure::Failure;
use crate::look::Looker;

/// The shortest pause between two looks at a table.
const LEAST_PAUSE: Duration = Duration::from_millis(250);

/// The knowledge of one application.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// Rises with every look, so that a browser knows what it has.
    pub(crate) looks: u64,
    /// The last look that went well.
    pub(crate) fleet: Option<Arc<FleetView>>,
    /// The same as JSON, made once for all browsers.
    pub(crate) text: Arc<str>,
    /// Why the look after that failed.
    pub(crate) problem: Option<Arc<str>>,
}

/// The problem, as browsers get it.
#[derive(Debug, Serialize)]
struct ProblemDocument<'a> {
    message: &'a str,
    last_look_ms: Option<i64>,
}

/// One application on the dashboard.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) application: String,
    shown: watch::Sender<Shown>,
    /// Ends the pause before the next look.
    wake: Notify,
}

impl Board {
    pub(crate) fn new(application: &str) -> Self {
        Self {
            application: application.to_owned(),
            shown: watch::Sender::new(Shown::default()),
            wake: Notify::new(),
        }
    }

    /// Looks again and again while a browser watches, and once at the beginning.
    pub(crate) async fn read(&self, clock: &TokioClock, interval: Duration, looker: &mut Looker<'_>) {
        loop {
            self.show(looker.look().await);
            // A look that was asked for comes sooner, and however many ask, not more often than this.
            let least = interval.min(LEAST_PAUSE);
            clock.sleep(least).await;
            let _ = clock.timeout(interval - least, self.wake.notified()).await;
            while self.shown.receiver_count() == 0 {
                self.wake.notified().await;
            }
        }
    }

    /// Shows the outcome of a look.
    pub(crate) fn show(&self, looked: Result<FleetView, Failure>) {
        self.shown.send_modify(|shown| {
            shown.looks += 1;
            match looked {
                Ok(fleet) => {
                    // A view has no key that is no text.
                    shown.text = serde_json::to_string(&fleet).unwrap_or_default().into();
                    shown.fleet = Some(Arc::new(fleet));
                    shown.problem = None;
                }
                Err(failure) => shown.problem = Some(failure.to_string().into()),
            }
        });
    }

    /// The states from now on, the current one first.
    pub(crate) fn watch(&self) -> watch::Receiver<Shown> {
        let receiver = self.shown.subscribe();
        self.look_now();
        receiver
    }

    /// Makes the reader look before its pause is over.
    pub(crate) fn look_now(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn fleet(&self) -> Option<Arc<FleetView>> {
        self.shown.borrow().fleet.clone()
    }
}

impl Shown {
    /// The event for browsers: its name and its data. `None` before the first look.
    pub(crate) fn event(&self) -> Option<(&'static str, String)> {
        if let Some(message) = &self.problem {
            let document = ProblemDocument {
                message,
                last_look_ms: self.fleet.as_ref().map(|fleet| fleet.time_ms),
            };
            return Some(("problem", serde_json::to_string(&document).unwrap_or_default()));
        }
        self.fleet.as_ref().map(|_| ("fleet", self.text.to_string()))
    }
}
