//! When things happened, according to the logs of the workers: pure functions.

use super::evidence::Evidence;
use super::log::{Entry, Event};

/// When another worker than this one first began the shard after this time; seconds since 1970.
pub fn begun_elsewhere(evidence: &Evidence, shard: &str, worker: &str, after: f64) -> Option<f64> {
    let begun = of_shard(evidence, shard).filter(|entry| entry.event.begins());
    let elsewhere = begun.filter(|entry| entry.worker != worker && entry.time > after);
    elsewhere.map(|entry| entry.time).reduce(f64::min)
}

/// When this worker was last given a record of the shard, or asked to let the shard go; seconds since 1970.
pub fn let_go(evidence: &Evidence, shard: &str, worker: &str) -> Option<f64> {
    let own = of_shard(evidence, shard).filter(|entry| entry.worker == worker);
    let busy = own.filter(|entry| matches!(entry.event, Event::Record { .. } | Event::ShutdownRequested));
    busy.map(|entry| entry.time).reduce(f64::max)
}

/// How long after the end of its last parent each child began, in seconds; those of which either is not logged are left out.
pub fn children_after_parents(evidence: &Evidence) -> Vec<(String, f64)> {
    let first = |shard: &str, is_such: fn(&Event) -> bool| {
        let such = of_shard(evidence, shard).filter(|entry| is_such(&entry.event));
        such.map(|entry| entry.time).reduce(f64::min)
    };
    let mut waited = Vec::new();
    for (child, parents) in &evidence.lineage {
        let ends = |event: &Event| *event == Event::ShardEnded;
        let ended: Option<Vec<f64>> = parents.iter().map(|parent| first(parent, ends)).collect();
        let last = ended.and_then(|ended| ended.into_iter().reduce(f64::max));
        if let (Some(ended), Some(begun)) = (last, first(child, Event::begins)) {
            waited.push((child.clone(), begun - ended));
        }
    }
    waited
}

fn of_shard<'a>(evidence: &'a Evidence, shard: &'a str) -> impl Iterator<Item = &'a Entry> {
    let entries = evidence.logs.iter().flatten();
    entries.filter(move |entry| entry.shard == shard)
}

#[cfg(test)]
mod tests {
    use super::super::evidence::Lineage;
    use super::*;

    fn entry(time: f64, worker: &str, shard: &str, event: Event) -> Entry {
        Entry {
            time,
            worker: worker.to_owned(),
            shard: shard.to_owned(),
            event,
        }
    }

    /// Worker a lets go of the parent, b ends it and begins the child.
    fn handed_over() -> Evidence {
        Evidence {
            puts: Vec::new(),
            logs: vec![
                vec![
                    entry(1.0, "a", "p", Event::Initialized { token: 1 }),
                    entry(2.5, "a", "p", Event::ShutdownRequested),
                ],
                vec![
                    entry(3.0, "b", "p", Event::Initialized { token: 1 }),
                    entry(4.0, "b", "p", Event::ShardEnded),
                    entry(4.25, "b", "c", Event::Initialized { token: 1 }),
                ],
            ],
            lineage: Lineage::from([("c".to_owned(), vec!["p".to_owned()])]),
        }
    }

    #[test]
    fn a_handover_is_seen_from_both_sides() {
        assert_eq!(let_go(&handed_over(), "p", "a"), Some(2.5));
        assert_eq!(begun_elsewhere(&handed_over(), "p", "a", 2.5), Some(3.0));
        assert_eq!(begun_elsewhere(&handed_over(), "p", "a", 3.0), None);
        assert_eq!(let_go(&handed_over(), "c", "a"), None);
    }

    #[test]
    fn child_is_timed_from_end_of_last_parent() {
        let mut evidence = handed_over();
        assert_eq!(children_after_parents(&evidence), [("c".to_owned(), 0.25)]);
        evidence
            .lineage
            .insert("c".to_owned(), vec!["p".to_owned(), "q".to_owned()]);
        assert_eq!(children_after_parents(&evidence), []);
        evidence.logs[0].push(entry(4.125, "a", "q", Event::ShardEnded));
        assert_eq!(children_after_parents(&evidence), [("c".to_owned(), 0.125)]);
    }
}
