//! Says which shards nobody reads for want of a worker, and why: loudly, and once.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::assignment::assignment_plan::{AssignmentPlan, Obstacle};
use crate::types::LeaseKey;

/// The obstacles that were last logged.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnplacedShards {
    said: BTreeSet<Obstacle>,
}

/// Something to say about leases without a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnplacedChange {
    /// How many leases each obstacle keeps from having a worker, and the first of them. Empty: they all have one again.
    leases: BTreeMap<Obstacle, (usize, LeaseKey)>,
}

impl UnplacedShards {
    /// Returns the log line for this plan, if it needs one. Numbers come and go with every reshard; another obstacle is reported, and so is the end of all.
    pub(crate) fn look(&mut self, plan: &AssignmentPlan) -> Option<UnplacedChange> {
        let mut leases: BTreeMap<Obstacle, (usize, LeaseKey)> = BTreeMap::new();
        for (key, obstacle) in &plan.unplaced {
            leases.entry(*obstacle).or_insert_with(|| (0, key.clone())).0 += 1;
        }
        let obstacles: BTreeSet<Obstacle> = leases.keys().copied().collect();
        let is_news = if obstacles.is_empty() {
            !self.said.is_empty()
        } else {
            !obstacles.is_subset(&self.said)
        };
        if obstacles.is_empty() {
            self.said.clear();
        } else {
            self.said.extend(obstacles);
        }
        is_news.then_some(UnplacedChange { leases })
    }
}

impl UnplacedChange {
    /// Logs it.
    pub(crate) fn tell(&self) {
        if self.leases.is_empty() {
            tracing::info!("every lease has a worker again");
        }
        for (obstacle, (leases, first)) in &self.leases {
            tracing::warn!(leases, %first, obstacle = in_words(*obstacle), "these shards are not read");
        }
    }
}

fn in_words(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NoCandidate => "no live worker stays",
        Obstacle::MaxLeases => "every worker is at its max_leases: raise it, or add workers",
        Obstacle::MaxThroughput => "every worker is at its max_throughput: raise it, or add workers",
        Obstacle::Barred => "the workers with room have just failed on them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(unplaced: &[(&str, Obstacle)]) -> AssignmentPlan {
        let unplaced = unplaced
            .iter()
            .map(|(key, obstacle)| (LeaseKey::new(*key).unwrap(), *obstacle));
        AssignmentPlan {
            unplaced: unplaced.collect(),
            ..AssignmentPlan::default()
        }
    }

    #[test]
    fn each_obstacle_is_said_once_until_all_placed() {
        let mut unplaced = UnplacedShards::default();
        assert_eq!(unplaced.look(&plan(&[])), None);
        let full = [("a", Obstacle::MaxLeases), ("b", Obstacle::MaxLeases)];
        let news = unplaced.look(&plan(&full)).unwrap();
        assert_eq!(
            news.leases[&Obstacle::MaxLeases],
            (2, LeaseKey::new("a").unwrap())
        );
        assert_eq!(unplaced.look(&plan(&full)), None);
        assert_eq!(unplaced.look(&plan(&full[..1])), None);
        let more = [("a", Obstacle::MaxLeases), ("c", Obstacle::MaxThroughput)];
        assert!(unplaced.look(&plan(&more)).is_some());
        assert_eq!(unplaced.look(&plan(&full)), None, "nothing flaps");
        let over = unplaced.look(&plan(&[])).unwrap();
        assert!(over.leases.is_empty());
        assert_eq!(unplaced.look(&plan(&[])), None);
        assert!(unplaced.look(&plan(&full)).is_some());
    }
}
