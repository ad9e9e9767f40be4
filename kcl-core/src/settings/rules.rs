//! How a group of settings reports what is wrong with it.

use std::time::Duration;

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns the texts of the rules that are violated.
pub(crate) fn violated<const N: usize>(rules: [(bool, &str); N]) -> Vec<String> {
    let violated = rules.into_iter().filter(|(violated, _)| *violated);
    violated.map(|(_, rule)| rule.to_owned()).collect()
}

/// Returns a violation for each duration, by its name, that is longer than it can be meant, with the reason for its limit.
pub(crate) fn too_long<const N: usize>(limits: [(&str, Duration, Duration, &str); N]) -> Vec<String> {
    let exceeded = limits.into_iter().filter(|(_, value, limit, _)| value > limit);
    exceeded
        .map(|(name, _, limit, reason)| {
            let limit = humantime::format_duration(limit);
            format!("{name} must be at most {limit}: {reason}")
        })
        .collect()
}
