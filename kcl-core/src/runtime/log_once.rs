//! Decides when a problem that repeats is logged.

use std::fmt::Display;

/// Returns `true` if what has happened so often in a row is to be logged: the first time, and each time that the number has doubled.
pub(crate) fn is_due(times: u32) -> bool {
    times.is_power_of_two()
}

/// One problem that may repeat. It is logged when it begins, ever more seldom while it lasts, and when it is over. `T` distinguishes problems
/// that follow each other.
#[derive(Debug, Clone)]
pub(crate) struct LogOnce<T = ()> {
    problem: Option<T>,
    times: u32,
}

impl<T> Default for LogOnce<T> {
    fn default() -> Self {
        Self {
            problem: None,
            times: 0,
        }
    }
}

impl<T: PartialEq> LogOnce<T> {
    /// Counts the problem once more. Returns how often it came in a row if that is to be logged. Another problem than the last begins at one.
    pub(crate) fn again(&mut self, problem: T) -> Option<u32> {
        if self.problem.as_ref() != Some(&problem) {
            *self = Self {
                problem: Some(problem),
                times: 0,
            };
        }
        self.times = self.times.saturating_add(1);
        is_due(self.times).then_some(self.times)
    }

    /// Counts the problem once more. Returns `true` if it is another than the last, or if it had ended meanwhile.
    pub(crate) fn begins(&mut self, problem: T) -> bool {
        self.again(problem) == Some(1)
    }

    /// Ends the problem. Returns how often it came, if there was one.
    pub(crate) fn over(&mut self) -> Option<u32> {
        self.problem.take().map(|_| std::mem::take(&mut self.times))
    }

    /// Returns `true` from the first time of a problem until it is over.
    pub(crate) fn persists(&self) -> bool {
        self.problem.is_some()
    }
}

impl LogOnce {
    /// Counts the problem once more, and logs it as a warning if that is due.
    pub(crate) fn warn(&mut self, what: &str, error: impl Display) {
        if let Some(times) = self.again(()) {
            tracing::warn!(times, %error, "{what}");
        }
    }

    /// Ends the problem, and logs that if there was one.
    pub(crate) fn log_end(&mut self, what: &str) {
        if let Some(times) = self.over() {
            tracing::info!(times, "over: {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_problem_is_logged_at_each_doubling() {
        let mut problem = LogOnce::default();
        let logged: Vec<u32> = (0..20).filter_map(|_| problem.again(())).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16]);
        assert!(problem.persists());
        assert_eq!(problem.over(), Some(20));
        assert_eq!(problem.over(), None);
        assert!(!problem.persists());
        assert_eq!(problem.again(()), Some(1));
    }

    #[test]
    fn other_problem_is_logged_at_once() {
        let mut problem = LogOnce::default();
        assert!(problem.begins("no answer"));
        assert!(!problem.begins("no answer"));
        assert!(problem.begins("denied"));
        assert!(problem.begins("no answer"));
        assert_eq!(problem.over(), Some(1));
    }
}
