use super::*;
use proptest::prelude::{Just, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

const F: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_secs(1);

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn second(n: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(n))
}

fn election(me: &str) -> LeaderElection {
    LeaderElection::new(id(me), F, POLL)
}

fn lock(owner: &str, version: &str, standby: Option<&str>) -> LeaderLock {
    LeaderLock {
        owner: id(owner),
        duration: F,
        version: version.to_owned(),
        released: false,
        standby: standby.map(id),
    }
}

fn step(node: &LeaderElection, now: Moment) -> ElectionAction {
    let standby = node.lock().and_then(|lock| lock.standby.clone());
    node.step(
        now,
        standby.as_ref(),
        &mut Rng::from_seed(now.since_origin().as_nanos() as u64),
    )
}

/// Does the write that the step asks for, successfully, and says what was written.
fn perform(node: &mut LeaderElection, now: Moment) -> LeaderLock {
    match step(node, now) {
        ElectionAction::Take { row, .. } | ElectionAction::Heartbeat { row, .. } => {
            node.sending(now, &row);
            node.written(row.clone());
            row
        }
        step @ (ElectionAction::Lead | ElectionAction::Follow | ElectionAction::StepDown) => {
            panic!("nothing to write: {step:?}")
        }
    }
}

/// Watches the same lock once a second from `from` to `to`, both included.
fn watch(node: &mut LeaderElection, lock: Option<&LeaderLock>, from: u64, to: u64) {
    for n in from..=to {
        node.look(second(n), lock.cloned());
    }
}

#[test]
fn nobody_acts_before_the_first_look() {
    assert_eq!(step(&election("a"), second(5)), ElectionAction::Follow);
}

#[test]
fn absent_lock_is_taken_at_once_and_held() {
    let mut a = election("a");
    a.look(second(0), None);
    assert!(matches!(
        step(&a, second(0)),
        ElectionAction::Take {
            expect: LockExpect::Absent,
            ..
        }
    ));
    let row = perform(&mut a, second(0));
    assert_eq!(
        (row.owner.clone(), row.duration, row.released),
        (id("a"), F, false)
    );
    assert!(a.leads(second(0)));
    assert_eq!(step(&a, second(1)), ElectionAction::Lead);
}

#[test]
fn heartbeat_is_due_after_fifth_of_failover_time() {
    let mut a = election("a");
    a.look(second(0), None);
    let first = perform(&mut a, second(0));
    a.look(second(1), Some(first.clone()));
    assert_eq!(step(&a, second(1)), ElectionAction::Lead);
    let ElectionAction::Heartbeat { expect, row } = step(&a, second(2)) else {
        panic!("a heartbeat is due");
    };
    let expected = LockExpect::Version {
        version: first.version.clone(),
        owner: id("a"),
    };
    assert_eq!(expect, expected);
    assert_ne!(row.version, first.version);
}

#[test]
fn a_new_standby_is_named_at_once() {
    let mut a = election("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    let step = a.step(second(0), Some(&id("b")), &mut Rng::from_seed(1));
    assert!(matches!(step, ElectionAction::Heartbeat { row, .. } if row.standby == Some(id("b"))));
}

#[test]
fn lock_still_beyond_its_stored_duration_is_taken() {
    let mut b = election("b");
    let held = LeaderLock {
        duration: F * 2,
        ..lock("a", "1", None)
    };
    watch(&mut b, Some(&held), 0, 20);
    assert_eq!(step(&b, second(20)), ElectionAction::Follow);
    watch(&mut b, Some(&held), 21, 21);
    let expected = LockExpect::Version {
        version: "1".to_owned(),
        owner: id("a"),
    };
    assert!(matches!(step(&b, second(21)), ElectionAction::Take { expect, .. } if expect == expected));
}

#[test]
fn lock_of_endless_duration_expires_after_an_hour() {
    let mut b = election("b");
    let held = LeaderLock {
        duration: Duration::from_millis(u64::MAX),
        ..lock("a", "1", None)
    };
    watch(&mut b, Some(&held), 0, 3600);
    assert_eq!(step(&b, second(3600)), ElectionAction::Follow);
    watch(&mut b, Some(&held), 3601, 3601);
    assert!(matches!(step(&b, second(3601)), ElectionAction::Take { .. }));
}

#[test]
fn a_lock_that_moves_is_never_taken() {
    let mut b = election("b");
    for n in 0..100 {
        b.look(second(n), Some(lock("a", &(n / 9).to_string(), None)));
        assert_eq!(step(&b, second(n)), ElectionAction::Follow);
    }
}

#[test]
fn outage_of_challenger_does_not_age_the_lock() {
    let mut b = election("b");
    b.look(second(0), Some(lock("a", "1", None)));
    b.look(second(3600), Some(lock("a", "1", None)));
    assert_eq!(step(&b, second(3600)), ElectionAction::Follow);
}

#[test]
fn a_released_lock_is_taken_at_once() {
    let mut b = election("b");
    b.look(
        second(0),
        Some(LeaderLock {
            released: true,
            ..lock("a", "1", None)
        }),
    );
    assert!(matches!(
        step(&b, second(0)),
        ElectionAction::Take {
            expect: LockExpect::Version { .. },
            ..
        }
    ));
}

#[test]
fn standby_takes_stale_lock_before_anybody_else() {
    for (released, first, then) in [(false, 11, 15), (true, 0, 3)] {
        let held = LeaderLock {
            released,
            ..lock("a", "1", Some("standby"))
        };
        let (mut standby, mut other) = (election("standby"), election("other"));
        watch(&mut standby, Some(&held), 0, first);
        watch(&mut other, Some(&held), 0, first);
        assert!(matches!(
            step(&standby, second(first)),
            ElectionAction::Take { .. }
        ));
        assert_eq!(step(&other, second(first)), ElectionAction::Follow);
        watch(&mut other, Some(&held), first + 1, then - 1);
        assert_eq!(step(&other, second(then - 1)), ElectionAction::Follow);
        watch(&mut other, Some(&held), then, then);
        assert!(matches!(step(&other, second(then)), ElectionAction::Take { .. }));
    }
}

#[test]
fn standby_takes_deleted_lock_before_anybody_else() {
    let (mut standby, mut other) = (election("standby"), election("other"));
    for node in [&mut standby, &mut other] {
        watch(node, Some(&lock("a", "1", Some("standby"))), 0, 3);
        watch(node, None, 4, 4);
    }
    assert!(matches!(step(&standby, second(4)), ElectionAction::Take { .. }));
    assert_eq!(step(&other, second(4)), ElectionAction::Follow);
    watch(&mut other, None, 5, 7);
    assert!(matches!(step(&other, second(7)), ElectionAction::Take { .. }));
}

#[test]
fn leader_whose_lock_another_holds_resigns_and_follows() {
    let mut a = election("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    a.look(second(1), Some(lock("b", "x", None)));
    assert_eq!(step(&a, second(1)), ElectionAction::StepDown);
    assert_eq!(a.step_down(second(1)), None);
    assert_eq!(step(&a, second(1)), ElectionAction::Follow);
    assert!(!a.leads(second(1)));
}

#[test]
fn leader_whose_lock_was_deleted_takes_it_anew() {
    let mut a = election("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    a.look(second(1), None);
    assert_eq!(step(&a, second(1)), ElectionAction::StepDown);
    a.step_down(second(1));
    assert!(matches!(
        step(&a, second(1)),
        ElectionAction::Take {
            expect: LockExpect::Absent,
            ..
        }
    ));
}

#[test]
fn leader_without_heartbeats_stops_before_lock_is_free() {
    let mut a = election("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    assert!(a.leads(Moment::from_origin(Duration::from_millis(8999))));
    assert!(!a.leads(second(9)));
    // Nobody has taken it, though: the heartbeat that lands makes it the leader again.
    let row = perform(&mut a, second(9));
    assert!(a.leads(second(9)));
    assert_eq!(a.lock(), Some(&row));
}

#[test]
fn unwritten_lock_in_our_name_is_another_process() {
    let mut a = election("a");
    let earlier_run = lock("a", "not-ours", None);
    watch(&mut a, Some(&earlier_run), 0, 10);
    assert_eq!(step(&a, second(10)), ElectionAction::Follow);
    watch(&mut a, Some(&earlier_run), 11, 11);
    assert!(matches!(step(&a, second(11)), ElectionAction::Take { .. }));
}

#[test]
fn write_without_reply_counts_from_its_sending() {
    let mut a = election("a");
    a.look(second(0), None);
    let ElectionAction::Take { row, .. } = step(&a, second(0)) else {
        panic!("the lock is free");
    };
    a.sending(second(0), &row);
    assert!(!a.leads(second(0)));
    a.look(second(3), Some(row));
    assert!(a.leads(second(8)) && !a.leads(second(9)));
}

#[test]
fn late_heartbeat_is_ours_after_a_second_attempt() {
    let mut a = election("a");
    a.look(second(0), None);
    let first = perform(&mut a, second(0));
    let mut attempt = |now: u64| {
        let ElectionAction::Heartbeat { row, .. } = step(&a, second(now)) else {
            panic!("a heartbeat is due");
        };
        a.sending(second(now), &row);
        a.look(second(now), Some(first.clone()));
        row
    };
    let (late, second_try) = (attempt(2), attempt(3));
    a.refused(&second_try.version);
    a.look(second(4), Some(late));
    assert_eq!(step(&a, second(3)), ElectionAction::Lead);
    assert!(!a.leads(second(11)));
}

#[test]
fn worker_that_resigned_waits_before_leading_again() {
    let mut a = election("a");
    a.look(second(0), None);
    let row = perform(&mut a, second(0));
    let expected = LockExpect::Version {
        version: row.version,
        owner: id("a"),
    };
    assert_eq!(a.step_down(second(20)), Some((expected, LockChange::Release)));
    a.look(second(1), None);
    assert_eq!(step(&a, second(1)), ElectionAction::Follow);
    assert!(matches!(step(&a, second(20)), ElectionAction::Take { .. }));
}

#[test]
fn only_standby_stands_in_after_half_a_duration() {
    let held = lock("a", "1", Some("b"));
    let (mut leader, mut standby, mut other) = (election("a"), election("b"), election("c"));
    for n in 0..=5 {
        for node in [&mut leader, &mut standby, &mut other] {
            node.look(second(n), Some(held.clone()));
        }
        assert_eq!(standby.stands_in(), n == 5, "after {n} s");
        assert!(standby.is_standby() && !leader.stands_in() && !other.stands_in());
    }
    standby.look(second(6), Some(lock("a", "2", Some("b"))));
    assert!(!standby.stands_in());
    standby.look(second(7), Some(lock("a", "3", Some("c"))));
    assert!(!standby.is_standby());
}

#[test]
fn standby_of_resigned_leader_stays_until_somebody_leads() {
    let (mut standby, mut other) = (election("b"), election("c"));
    for node in [&mut standby, &mut other] {
        node.look(second(0), Some(lock("a", "1", Some("b"))));
        node.look(second(1), None);
    }
    assert!(standby.is_standby() && !other.is_standby());
    assert!(!standby.stands_in(), "it takes the lock instead");
    standby.look(second(2), Some(lock("c", "2", Some("d"))));
    assert!(!standby.is_standby());
}

#[test]
fn while_the_leader_names_nobody_everybody_watches() {
    let mut elections = [election("a"), election("b"), election("c")];
    for node in &mut elections {
        node.look(second(0), Some(lock("a", "1", None)));
    }
    assert_eq!(elections.map(|node| node.is_standby()), [false, true, true]);
}

#[test]
fn live_standby_stays_and_only_live_are_chosen() {
    let candidate = |name: &str, proven| Candidate {
        id: id(name),
        max_leases: None,
        max_throughput: None,
        leaving: false,
        proven,
    };
    let fleet = [
        candidate("a", true),
        candidate("b", false),
        candidate("c", true),
        candidate("d", true),
    ];
    let pick = |current: Option<&str>| pick_standby(&fleet, &id("a"), current.map(id).as_ref());
    assert_eq!(pick(None), Some(id("c")));
    assert_eq!(pick(Some("d")), Some(id("d")));
    assert_eq!(pick(Some("a")), Some(id("c")));
    assert_eq!(pick(Some("gone")), Some(id("c")));
    assert_eq!(pick_standby(&fleet[..1], &id("a"), None), None);
    let leaving = [Candidate {
        leaving: true,
        ..candidate("b", true)
    }];
    assert_eq!(pick_standby(&leaving, &id("a"), Some(&id("b"))), None);
}

/// The fate of one write in the network.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    ReplyLost,
    Late,
    Lost,
}

/// A worker whose clock runs at `rate` thousandths of the true speed.
struct Judge {
    node: LeaderElection,
    rate: u64,
    rng: Rng,
}

impl Judge {
    fn clock(&self, true_millis: u64) -> Moment {
        Moment::from_origin(Duration::from_micros(true_millis * self.rate))
    }
}

fn store(lock: &mut Option<LeaderLock>, expect: &LockExpect, row: &LeaderLock) -> bool {
    let holds = match (expect, &*lock) {
        (LockExpect::Absent, current) => current.is_none(),
        (LockExpect::Version { version, owner }, Some(current)) => {
            current.version == *version && current.owner == *owner
        }
        (LockExpect::Version { .. }, None) => false,
    };
    if holds {
        *lock = Some(row.clone());
    }
    holds
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Answered),
        1 => Just(Fate::ReplyLost),
        1 => Just(Fate::Late),
        1 => Just(Fate::Lost),
    ]
}

#[test]
fn challenger_with_shorter_failover_leaves_standby_first() {
    // It would read the lock every 400 ms, and wait for two of those beyond the duration; the standby reads it once a second.
    let mut quick = LeaderElection::new(id("quick"), F / 5, Duration::from_millis(400));
    let mut standby = LeaderElection::new(id("standby"), F * 3, POLL);
    let held = lock("leader", "1", Some("standby"));
    let takes = |node: &LeaderElection, at: Moment| matches!(step(node, at), ElectionAction::Take { .. });
    let taken_by = |node: &mut LeaderElection, first: u64| {
        let poll = u64::try_from(node.poll().as_millis()).unwrap();
        (0..).map(|n| first + n * poll).find(|millis| {
            let at = Moment::from_origin(Duration::from_millis(*millis));
            node.look(at, Some(held.clone()));
            takes(node, at)
        })
    };
    let (first, second) = (taken_by(&mut standby, 900), taken_by(&mut quick, 0));
    assert!(first < second, "{first:?} and {second:?}");
    // A standby reads the lock of a leader with a shorter failover time as often as that asks for.
    let mut slow = LeaderElection::new(id("standby"), F * 3, POLL);
    slow.look(
        Moment::ZERO,
        Some(LeaderLock {
            duration: F / 10,
            ..held
        }),
    );
    assert_eq!(slow.poll(), F / 50);
}

proptest! {
    /// Clocks may be wrong by 5 % either way, workers may pause for any time, replies may be lost and writes may land late:
    /// there is never more than one leader. And without any of that there always is one in the end.
    #[test]
    fn two_workers_never_lead_at_the_same_time(
        rates in [950_u64..=1050, 950_u64..=1050, 950_u64..=1050],
        script in prop::collection::vec((0_usize..3, prop_oneof![8 => 0_u64..900, 1 => 0_u64..15_000], fate()), 1..300),
    ) {
        let mut judges: Vec<Judge> = rates
            .iter()
            .enumerate()
            .map(|(i, &rate)| Judge {
                node: election(&format!("w{i}")),
                rate,
                rng: Rng::from_seed(i as u64),
            })
            .collect();
        let (mut lock, mut late, mut now) = (None, Vec::new(), 0);
        for (who, pause, fate) in script {
            now += pause;
            let leaders = judges.iter().filter(|judge| judge.node.leads(judge.clock(now))).count();
            prop_assert!(leaders <= 1, "{leaders} leaders at {now} ms");
            let judge = &mut judges[who];
            let at = judge.clock(now);
            judge.node.look(at, lock.clone());
            match judge.node.step(at, None, &mut judge.rng) {
                ElectionAction::Lead | ElectionAction::Follow => {}
                ElectionAction::StepDown => { judge.node.step_down(at); }
                ElectionAction::Take { expect, row } | ElectionAction::Heartbeat { expect, row } => {
                    judge.node.sending(at, &row);
                    match fate {
                        Fate::Answered if store(&mut lock, &expect, &row) => judge.node.written(row),
                        Fate::Answered => judge.node.refused(&row.version),
                        Fate::ReplyLost => { store(&mut lock, &expect, &row); }
                        Fate::Late => late.push((expect, row)),
                        Fate::Lost => {}
                    }
                }
            }
            if !matches!(fate, Fate::Late) {
                for (expect, row) in late.drain(..) {
                    store(&mut lock, &expect, &row);
                }
            }
            let leaders = judges.iter().filter(|judge| judge.node.leads(judge.clock(now))).count();
            prop_assert!(leaders <= 1, "{leaders} leaders after a write at {now} ms");
        }
        // Heal: everybody polls every 500 ms and every write is answered.
        for _ in 0..40 {
            now += 500;
            for judge in &mut judges {
                let at = judge.clock(now);
                judge.node.look(at, lock.clone());
                match judge.node.step(at, None, &mut judge.rng) {
                    ElectionAction::Lead | ElectionAction::Follow => {}
                    ElectionAction::StepDown => { judge.node.step_down(at); }
                    ElectionAction::Take { expect, row } | ElectionAction::Heartbeat { expect, row } => {
                        judge.node.sending(at, &row);
                        if store(&mut lock, &expect, &row) { judge.node.written(row) } else { judge.node.refused(&row.version) }
                    }
                }
            }
        }
        prop_assert_eq!(judges.iter().filter(|judge| judge.node.leads(judge.clock(now))).count(), 1);
    }

    /// Clocks may be wrong by 5 % either way, and both read the lock as often as they mean to. The standby has watched the leases.
    #[test]
    fn standby_takes_the_lock_before_any_challenger(
        seconds in 1_u64..120, standby_rate in 950_u64..=1050, challenger_rate in 950_u64..=1050,
        first_look in 0_u64..1000,
    ) {
        let held = LeaderLock { duration: Duration::from_secs(seconds), ..lock("leader", "1", Some("standby")) };
        let taken = |name: &str, rate: u64, first: u64| {
            let mut judge = Judge { node: election(name), rate, rng: Rng::from_seed(rate) };
            judge.node.look(judge.clock(first), Some(held.clone()));
            // Real time passes between two looks as the own clock says.
            let pause = judge.node.poll().as_secs_f64() * 1000.0 * 1000.0 / rate as f64;
            (0..).map(|n| first + (f64::from(n) * pause) as u64).find(|at| {
                let at = judge.clock(*at);
                judge.node.look(at, Some(held.clone()));
                matches!(judge.node.step(at, None, &mut judge.rng), ElectionAction::Take { .. })
            })
        };
        let poll = 1100;
        let (standby, challenger) = (taken("standby", standby_rate, first_look % poll), taken("challenger", challenger_rate, 0));
        prop_assert!(standby < challenger, "{standby:?} and {challenger:?}");
    }

    /// The tightest case: the leader falls silent right after a heartbeat, and a challenger watches as closely as it can.
    #[test]
    fn silent_leader_stopped_when_lock_is_taken(
        leader_rate in 950_u64..=1050, challenger_rate in 950_u64..=1050, gap in 1_u64..200,
    ) {
        let judge = |name, rate| Judge { node: election(name), rate, rng: Rng::from_seed(rate) };
        let (mut leader, mut challenger) = (judge("leader", leader_rate), judge("challenger", challenger_rate));
        leader.node.look(leader.clock(0), None);
        let lock = perform(&mut leader.node, Moment::ZERO);
        let taken_at = (0..).step_by(usize::try_from(gap).unwrap()).find(|&now| {
            let at = challenger.clock(now);
            challenger.node.look(at, Some(lock.clone()));
            matches!(challenger.node.step(at, None, &mut challenger.rng), ElectionAction::Take { .. })
        });
        let taken_at = taken_at.unwrap();
        prop_assert!(!leader.node.leads(leader.clock(taken_at)), "taken at {taken_at} ms");
        prop_assert!(taken_at <= 10_000 * 1000 / challenger_rate + gap + 1);
    }
}
