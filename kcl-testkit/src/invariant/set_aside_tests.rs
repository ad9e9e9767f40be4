use std::time::Duration;

use kcl_core::processor::FencingToken;

use super::tests::{Scenario, at, breaks, key};
use super::*;

/// A worker that was given the first five of ten records, and failed.
fn failed(from: Option<u64>) -> (Scenario, u64) {
    let mut scenario = Scenario::new(1);
    scenario.own("a", 0, 0);
    let token = scenario.token(0);
    scenario.batch("a", 1, 0, token, 1..=5).unwrap();
    scenario.fail("a", 0, from);
    (scenario, token)
}

fn set_aside(scenario: &mut Scenario, token: u64, n: u64, attempts: u32) -> Result<(), Violation> {
    scenario.see(Observation::SetAside {
        process: "a".into(),
        shard: key(0),
        token: Some(FencingToken::new(token)),
        position: at(n),
        unreadable: false,
        attempts: Some(attempts),
    })
}

#[test]
fn record_set_aside_is_finished_and_passed() {
    let (mut scenario, token) = failed(Some(3));
    set_aside(&mut scenario, token, 3, 1).unwrap();
    scenario.checkpoint("a", 2, 0, 3).unwrap();
    scenario.batch("a", 3, 0, token, 4..=10).unwrap();
    scenario.finish("a", 3, 0);
    assert_eq!(scenario.checker.tally().finished, 10);
    assert_eq!(scenario.checker.at_rest(), Ok(()));
}

#[test]
fn position_before_acknowledgement_is_found() {
    let (mut scenario, _) = failed(Some(3));
    scenario.checkpoint("a", 2, 0, 2).unwrap();
    breaks(scenario.checkpoint("a", 3, 0, 3), Invariant::CheckpointNotAhead);
}

#[test]
fn neighbour_set_aside_is_found() {
    // A call with five records failed and named none: any of them may be good.
    let (mut scenario, token) = failed(None);
    breaks(set_aside(&mut scenario, token, 1, 1), Invariant::NoRecordLost);
    let (mut scenario, token) = failed(Some(3));
    breaks(set_aside(&mut scenario, token, 2, 1), Invariant::NoRecordLost);
}

#[test]
fn attempts_of_another_record_are_found() {
    let (mut scenario, token) = failed(Some(2));
    scenario.batch("a", 2, 0, token, 2..=5).unwrap();
    scenario.fail("a", 0, Some(3));
    let mut shared = scenario.clone();
    breaks(set_aside(&mut shared, token, 3, 2), Invariant::NoRecordLost);
    set_aside(&mut scenario, token, 3, 1).unwrap();
    breaks(set_aside(&mut scenario, token, 3, 1), Invariant::InOrder);
}

#[test]
fn skip_without_word_is_found() {
    let (mut scenario, token) = failed(Some(3));
    breaks(scenario.batch("a", 3, 0, token, 4..=10), Invariant::InOrder);
}

#[test]
fn log_passes_what_was_set_aside() {
    let judge = |aside: &[u64], delivered: &[u64]| {
        let mut log = DeliveryLog::default();
        (1..=3).for_each(|n| log.put(&key(0), &at(n)));
        let process = "a".into();
        log.begin(&process, &key(0), None, None);
        for n in 1..=3 {
            if aside.contains(&n) {
                log.set_aside(&process, &key(0), &at(n));
            }
            if delivered.contains(&n) {
                log.deliver(&process, &key(0), &at(n), Duration::from_secs(n));
            }
        }
        (log.verdict(), log.lost().count())
    };
    let (verdict, lost) = judge(&[2], &[1, 3]);
    let tally = verdict.unwrap();
    assert_eq!((tally.finished, tally.set_aside, lost), (3, 1, 0));
    let (verdict, lost) = judge(&[], &[1, 3]);
    breaks(verdict.map(drop), Invariant::InOrder);
    assert_eq!(lost, 1);
    assert!(judge(&[1, 3], &[2]).0.is_ok());
}
