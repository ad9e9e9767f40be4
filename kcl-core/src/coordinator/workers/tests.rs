use super::*;
use crate::types::Timestamp;

const F: Duration = Duration::from_secs(10);
const CADENCE: Duration = Duration::from_secs(1);

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn row(name: &str, touches: u64, failover: Option<Duration>) -> WorkerRow {
    WorkerRow {
        id: id(name),
        incarnation: Some(Incarnation::from_random_bytes([1; 16])),
        touches,
        failover,
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(0),
        started: None,
        version: None,
        orders: None,
    }
}

fn me() -> Candidate {
    Candidate {
        id: id("me"),
        max_leases: None,
        max_throughput: None,
        leaving: false,
        proven: true,
    }
}

fn second(n: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(n))
}

fn names(liveness: &WorkerLiveness) -> Vec<String> {
    let candidates = liveness.candidates(&me());
    candidates.iter().map(|c| c.id.to_string()).collect()
}

#[test]
fn new_row_is_candidate_at_once_but_unproven() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    liveness.look(second(0), &[row("a", 3, None)]);
    let proven = |liveness: &WorkerLiveness| liveness.candidates(&me())[0].proven;
    assert_eq!(names(&liveness), ["a", "me"]);
    assert!(!proven(&liveness));
    liveness.look(second(1), &[row("a", 4, None)]);
    assert!(proven(&liveness));
}

fn java(name: &str, millis: i64) -> WorkerRow {
    WorkerRow {
        incarnation: None,
        updated: Timestamp::from_millis(millis),
        ..row(name, 0, None)
    }
}

#[test]
fn java_row_is_never_a_candidate() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    for n in 0..100 {
        liveness.look(second(n), &[java("java", i64::try_from(n).unwrap() * 1000)]);
        assert_eq!(names(&liveness), ["me"], "after {n} s");
    }
}

#[test]
fn row_of_live_java_worker_is_not_deleted() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    for n in 0..1000 {
        let reported = i64::try_from(n / 30).unwrap() * 30_000;
        liveness.look(second(n), &[java("live", reported), java("dead", 0)]);
        assert!(liveness.is_alive(&id("live")), "after {n} s");
    }
    assert_eq!(liveness.expired_workers(), [java("dead", 0)]);
    assert!(liveness.has_died(&id("dead")));
}

#[test]
fn row_that_appears_under_watch_is_alive() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    liveness.look(second(0), &[]);
    liveness.look(second(1), &[row("a", 3, None)]);
    assert!(liveness.candidates(&me())[0].proven);
}

#[test]
fn worker_with_expired_lease_waits_for_row_change() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    liveness.look(second(0), &[]);
    liveness.look(second(1), &[row("a", 3, None)]);
    liveness.doubt(&id("a"));
    liveness.look(second(2), &[row("a", 3, None)]);
    assert_eq!(names(&liveness), ["me"]);
    liveness.look(second(3), &[row("a", 4, None)]);
    assert_eq!(names(&liveness), ["a", "me"]);
}

#[test]
fn still_row_loses_candidacy_first_then_its_life() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    for n in 0..10 {
        liveness.look(second(n), &[row("a", 1, None)]);
        assert_eq!(names(&liveness).contains(&"a".to_owned()), n < 5, "after {n} s");
        assert!(liveness.is_alive(&id("a")), "after {n} s");
    }
    liveness.look(second(10), &[row("a", 1, None)]);
    assert!(!liveness.is_alive(&id("a")));
    liveness.look(second(11), &[row("a", 2, None)]);
    assert_eq!(names(&liveness), ["a", "me"]);
}

#[test]
fn row_that_stands_still_long_is_buried() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    for n in 0..=300 {
        assert_eq!(liveness.expired_workers(), [], "after {n} s");
        liveness.look(
            second(n),
            &[
                row("dead", 1, Some(F / 2)),
                row("live", n, None),
                row("slow", 1, Some(F * 2)),
            ],
        );
    }
    assert_eq!(liveness.expired_workers(), [row("dead", 1, Some(F / 2))]);
}

#[test]
fn each_worker_is_judged_by_own_failover_time() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    let rows = [row("quick", 1, Some(F / 5)), row("slow", 1, Some(F * 2))];
    for n in 0..8 {
        liveness.look(second(n), &rows);
    }
    assert_eq!(names(&liveness), ["me", "slow"]);
    assert_eq!(liveness.failover_of(&id("quick")), F);
    assert_eq!(liveness.failover_of(&id("slow")), F * 2);
    assert_eq!(liveness.failover_of(&id("unheard-of")), F);
}

#[test]
fn observer_is_candidate_once_without_own_row() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    assert_eq!(names(&liveness), ["me"]);
    for n in 0..20 {
        liveness.look(second(n), &[row("me", 1, None)]);
    }
    assert_eq!(names(&liveness), ["me"]);
}

#[test]
fn an_outage_kills_nobody() {
    let mut liveness = WorkerLiveness::new(F, CADENCE);
    liveness.look(second(0), &[row("a", 1, None)]);
    liveness.look(second(3600), &[row("a", 1, None)]);
    assert_eq!(names(&liveness), ["a", "me"]);
}

#[test]
fn setback_bars_one_worker_from_one_lease() {
    let (lease, other) = (LeaseKey::new("l").unwrap(), LeaseKey::new("m").unwrap());
    let mut cooldowns = Cooldowns::default();
    cooldowns.note(&lease, &id("a"), second(30));
    assert_eq!(cooldowns.barred(&lease, second(29)), BTreeSet::from([id("a")]));
    assert!(cooldowns.barred(&other, second(29)).is_empty());
    assert!(cooldowns.barred(&lease, second(30)).is_empty());
    cooldowns.prune(second(30));
    assert!(cooldowns.until.is_empty());
}
