use crate::error::Causes;
use crate::lease::store::StoreError;

/// A fault that may repeat: logged when it begins, ever more seldom while it lasts, and when it is over.
pub(crate) struct RepeatedFault {
    what: &'static str,
    count: u32,
}

impl RepeatedFault {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, count: 0 }
    }

    pub(crate) fn again(&mut self, error: &StoreError) {
        self.count += 1;
        if self.count.is_power_of_two() {
            tracing::warn!(times = self.count, error = %Causes(error), "{}", self.what);
        }
    }

    /// Whether the faults are not over yet.
    pub(crate) fn persist(&self) -> bool {
        self.count > 0
    }

    pub(crate) fn over(&mut self) {
        if self.count > 0 {
            tracing::info!(times = self.count, "over: {}", self.what);
            self.count = 0;
        }
    }
}
