use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::assignment::cadence;

/// How leases are assigned. The same values should be set on every worker, since any of them may lead.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::assignment::AssignmentSettings;
///
/// let settings = AssignmentSettings { max_moves: 20, ..AssignmentSettings::default() };
/// assert_eq!(settings.violations(Duration::from_secs(10)), Vec::<String>::new());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AssignmentSettings {
    /// How many moves for balance may be under way at a time; a third of the moves that are needed may be in any case.
    /// Default 10: a small fleet is balanced in one round, and a large one does not stop half its shards at once.
    pub max_moves: usize,
    /// How many pages of the table a scanning worker may read per second; at most two workers scan, the leader and its deputy.
    /// Default 4: a DynamoDB page is 1 MB, about 1500 leases, or 128 read units. A table too large for this budget is scanned
    /// at least four times per failover time all the same, and the status says so.
    pub scan_pages_per_second: u32,
    /// How many leases are assigned at a time, 1 or more. Default 16: a thousand leases take seconds, and the table is not flooded.
    pub concurrent_writes: usize,
}

impl Default for AssignmentSettings {
    fn default() -> Self {
        Self {
            max_moves: 10,
            scan_pages_per_second: 4,
            concurrent_writes: 16,
        }
    }
}

impl AssignmentSettings {
    /// Everything that is wrong with the settings, for a fleet with this failover time.
    pub fn violations(&self, failover: Duration) -> Vec<String> {
        let mut violations = Vec::new();
        if self.concurrent_writes == 0 {
            violations.push("concurrent_writes is 0: no lease could be assigned; set 1 or more".to_owned());
        }
        if cadence::largest_table(self.scan_pages_per_second, failover) == 0 {
            violations.push(format!(
                "scan_pages_per_second is {}: not even a table of one page would be scanned four times in the failover time of {failover:?}; \
                 raise it or the failover time",
                self.scan_pages_per_second
            ));
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_are_reported_at_once() {
        let settings = AssignmentSettings {
            scan_pages_per_second: 1,
            concurrent_writes: 0,
            ..AssignmentSettings::default()
        };
        let violations = settings.violations(Duration::from_secs(2)).join("; ");
        assert!(violations.contains("concurrent_writes") && violations.contains("scan_pages_per_second"));
        assert!(
            AssignmentSettings::default()
                .violations(Duration::from_secs(1))
                .is_empty()
        );
    }
}
