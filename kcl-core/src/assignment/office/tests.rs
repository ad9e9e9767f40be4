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

fn office(me: &str) -> Office {
    Office::new(id(me), F, POLL)
}

fn lock(owner: &str, version: &str, deputy: Option<&str>) -> LeaderLock {
    LeaderLock {
        owner: id(owner),
        duration: F,
        version: version.to_owned(),
        released: false,
        deputy: deputy.map(id),
    }
}

fn step(office: &Office, now: Moment) -> OfficeStep {
    let deputy = office.lock().and_then(|lock| lock.deputy.clone());
    office.step(
        now,
        deputy.as_ref(),
        &mut Rng::from_seed(now.since_origin().as_nanos() as u64),
    )
}

/// Does the write that the step asks for, successfully, and says what was written.
fn perform(office: &mut Office, now: Moment) -> LeaderLock {
    match step(office, now) {
        OfficeStep::Take { row, .. } | OfficeStep::Heartbeat { row, .. } => {
            office.sending(now, &row);
            office.written(row.clone());
            row
        }
        step @ (OfficeStep::Lead | OfficeStep::Follow | OfficeStep::Resign) => {
            panic!("nothing to write: {step:?}")
        }
    }
}

/// Watches the same lock once a second from `from` to `to`, both included.
fn watch(office: &mut Office, lock: Option<&LeaderLock>, from: u64, to: u64) {
    for n in from..=to {
        office.look(second(n), lock.cloned());
    }
}

#[test]
fn nobody_acts_before_the_first_look() {
    assert_eq!(step(&office("a"), second(5)), OfficeStep::Follow);
}

#[test]
fn an_absent_lock_is_taken_at_once_and_held() {
    let mut a = office("a");
    a.look(second(0), None);
    assert!(matches!(
        step(&a, second(0)),
        OfficeStep::Take {
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
    assert_eq!(step(&a, second(1)), OfficeStep::Lead);
}

#[test]
fn a_heartbeat_is_due_after_a_fifth_of_the_failover_time_with_a_fresh_version() {
    let mut a = office("a");
    a.look(second(0), None);
    let first = perform(&mut a, second(0));
    a.look(second(1), Some(first.clone()));
    assert_eq!(step(&a, second(1)), OfficeStep::Lead);
    let OfficeStep::Heartbeat { expect, row } = step(&a, second(2)) else {
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
fn a_new_deputy_is_named_at_once() {
    let mut a = office("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    let step = a.step(second(0), Some(&id("b")), &mut Rng::from_seed(1));
    assert!(matches!(step, OfficeStep::Heartbeat { row, .. } if row.deputy == Some(id("b"))));
}

#[test]
fn a_lock_that_stood_still_for_longer_than_the_stored_duration_is_taken() {
    let mut b = office("b");
    let held = LeaderLock {
        duration: F * 2,
        ..lock("a", "1", None)
    };
    watch(&mut b, Some(&held), 0, 20);
    assert_eq!(step(&b, second(20)), OfficeStep::Follow);
    watch(&mut b, Some(&held), 21, 21);
    let expected = LockExpect::Version {
        version: "1".to_owned(),
        owner: id("a"),
    };
    assert!(matches!(step(&b, second(21)), OfficeStep::Take { expect, .. } if expect == expected));
}

#[test]
fn lock_of_endless_duration_is_taken_after_an_hour() {
    let mut b = office("b");
    let held = LeaderLock {
        duration: Duration::from_millis(u64::MAX),
        ..lock("a", "1", None)
    };
    watch(&mut b, Some(&held), 0, 3600);
    assert_eq!(step(&b, second(3600)), OfficeStep::Follow);
    watch(&mut b, Some(&held), 3601, 3601);
    assert!(matches!(step(&b, second(3601)), OfficeStep::Take { .. }));
}

#[test]
fn a_lock_that_moves_is_never_taken() {
    let mut b = office("b");
    for n in 0..100 {
        b.look(second(n), Some(lock("a", &(n / 9).to_string(), None)));
        assert_eq!(step(&b, second(n)), OfficeStep::Follow);
    }
}

#[test]
fn an_outage_of_the_challenger_does_not_age_the_lock() {
    let mut b = office("b");
    b.look(second(0), Some(lock("a", "1", None)));
    b.look(second(3600), Some(lock("a", "1", None)));
    assert_eq!(step(&b, second(3600)), OfficeStep::Follow);
}

#[test]
fn a_released_lock_is_taken_at_once() {
    let mut b = office("b");
    b.look(
        second(0),
        Some(LeaderLock {
            released: true,
            ..lock("a", "1", None)
        }),
    );
    assert!(matches!(
        step(&b, second(0)),
        OfficeStep::Take {
            expect: LockExpect::Version { .. },
            ..
        }
    ));
}

#[test]
fn the_deputy_takes_the_lock_before_anybody_else_does() {
    for (released, first, then) in [(false, 11, 15), (true, 0, 3)] {
        let held = LeaderLock {
            released,
            ..lock("a", "1", Some("deputy"))
        };
        let (mut deputy, mut other) = (office("deputy"), office("other"));
        watch(&mut deputy, Some(&held), 0, first);
        watch(&mut other, Some(&held), 0, first);
        assert!(matches!(step(&deputy, second(first)), OfficeStep::Take { .. }));
        assert_eq!(step(&other, second(first)), OfficeStep::Follow);
        watch(&mut other, Some(&held), first + 1, then - 1);
        assert_eq!(step(&other, second(then - 1)), OfficeStep::Follow);
        watch(&mut other, Some(&held), then, then);
        assert!(matches!(step(&other, second(then)), OfficeStep::Take { .. }));
    }
}

#[test]
fn the_deputy_takes_a_deleted_lock_before_anybody_else_does() {
    let (mut deputy, mut other) = (office("deputy"), office("other"));
    for office in [&mut deputy, &mut other] {
        watch(office, Some(&lock("a", "1", Some("deputy"))), 0, 3);
        watch(office, None, 4, 4);
    }
    assert!(matches!(step(&deputy, second(4)), OfficeStep::Take { .. }));
    assert_eq!(step(&other, second(4)), OfficeStep::Follow);
    watch(&mut other, None, 5, 7);
    assert!(matches!(step(&other, second(7)), OfficeStep::Take { .. }));
}

#[test]
fn a_leader_whose_lock_somebody_else_holds_resigns_and_follows() {
    let mut a = office("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    a.look(second(1), Some(lock("b", "x", None)));
    assert_eq!(step(&a, second(1)), OfficeStep::Resign);
    assert_eq!(a.resign(second(1)), None);
    assert_eq!(step(&a, second(1)), OfficeStep::Follow);
    assert!(!a.leads(second(1)));
}

#[test]
fn a_leader_whose_lock_was_deleted_resigns_and_takes_it_anew() {
    let mut a = office("a");
    a.look(second(0), None);
    perform(&mut a, second(0));
    a.look(second(1), None);
    assert_eq!(step(&a, second(1)), OfficeStep::Resign);
    a.resign(second(1));
    assert!(matches!(
        step(&a, second(1)),
        OfficeStep::Take {
            expect: LockExpect::Absent,
            ..
        }
    ));
}

#[test]
fn a_leader_without_heartbeats_stops_leading_before_anybody_may_take_the_lock() {
    let mut a = office("a");
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
fn a_lock_in_our_name_that_we_did_not_write_is_another_process() {
    let mut a = office("a");
    let earlier_run = lock("a", "not-ours", None);
    watch(&mut a, Some(&earlier_run), 0, 10);
    assert_eq!(step(&a, second(10)), OfficeStep::Follow);
    watch(&mut a, Some(&earlier_run), 11, 11);
    assert!(matches!(step(&a, second(11)), OfficeStep::Take { .. }));
}

#[test]
fn a_write_whose_reply_was_lost_is_found_by_the_next_look_and_counts_from_its_sending() {
    let mut a = office("a");
    a.look(second(0), None);
    let OfficeStep::Take { row, .. } = step(&a, second(0)) else {
        panic!("the lock is free");
    };
    a.sending(second(0), &row);
    assert!(!a.leads(second(0)));
    a.look(second(3), Some(row));
    assert!(a.leads(second(8)) && !a.leads(second(9)));
}

#[test]
fn a_heartbeat_that_lands_late_is_ours_even_after_a_second_attempt() {
    let mut a = office("a");
    a.look(second(0), None);
    let first = perform(&mut a, second(0));
    let mut attempt = |now: u64| {
        let OfficeStep::Heartbeat { row, .. } = step(&a, second(now)) else {
            panic!("a heartbeat is due");
        };
        a.sending(second(now), &row);
        a.look(second(now), Some(first.clone()));
        row
    };
    let (late, second_try) = (attempt(2), attempt(3));
    a.refused(&second_try.version);
    a.look(second(4), Some(late));
    assert_eq!(step(&a, second(3)), OfficeStep::Lead);
    assert!(!a.leads(second(11)));
}

#[test]
fn who_gave_the_office_up_waits_before_taking_it_again() {
    let mut a = office("a");
    a.look(second(0), None);
    let row = perform(&mut a, second(0));
    let expected = LockExpect::Version {
        version: row.version,
        owner: id("a"),
    };
    assert_eq!(a.resign(second(20)), Some((expected, LockChange::Release)));
    a.look(second(1), None);
    assert_eq!(step(&a, second(1)), OfficeStep::Follow);
    assert!(matches!(step(&a, second(20)), OfficeStep::Take { .. }));
}

#[test]
fn only_the_deputy_stands_in_and_only_once_the_lock_stood_still_for_half_its_duration() {
    let held = lock("a", "1", Some("b"));
    let (mut leader, mut deputy, mut other) = (office("a"), office("b"), office("c"));
    for n in 0..=5 {
        for office in [&mut leader, &mut deputy, &mut other] {
            office.look(second(n), Some(held.clone()));
        }
        assert_eq!(deputy.stands_in(), n == 5, "after {n} s");
        assert!(deputy.is_deputy() && !leader.stands_in() && !other.stands_in());
    }
    deputy.look(second(6), Some(lock("a", "2", Some("b"))));
    assert!(!deputy.stands_in());
    deputy.look(second(7), Some(lock("a", "3", Some("c"))));
    assert!(!deputy.is_deputy());
}

#[test]
fn the_deputy_of_a_leader_that_gave_the_office_up_stays_deputy_until_somebody_leads() {
    let (mut deputy, mut other) = (office("b"), office("c"));
    for office in [&mut deputy, &mut other] {
        office.look(second(0), Some(lock("a", "1", Some("b"))));
        office.look(second(1), None);
    }
    assert!(deputy.is_deputy() && !other.is_deputy());
    assert!(!deputy.stands_in(), "it takes the office instead");
    deputy.look(second(2), Some(lock("c", "2", Some("d"))));
    assert!(!deputy.is_deputy());
}

#[test]
fn while_the_leader_names_nobody_everybody_watches() {
    let mut offices = [office("a"), office("b"), office("c")];
    for office in &mut offices {
        office.look(second(0), Some(lock("a", "1", None)));
    }
    assert_eq!(offices.map(|office| office.is_deputy()), [false, true, true]);
}

#[test]
fn the_deputy_stays_as_long_as_it_lives_and_is_chosen_among_those_seen_to_live() {
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
    let pick = |current: Option<&str>| pick_deputy(&fleet, &id("a"), current.map(id).as_ref());
    assert_eq!(pick(None), Some(id("c")));
    assert_eq!(pick(Some("d")), Some(id("d")));
    assert_eq!(pick(Some("a")), Some(id("c")));
    assert_eq!(pick(Some("gone")), Some(id("c")));
    assert_eq!(pick_deputy(&fleet[..1], &id("a"), None), None);
    let leaving = [Candidate {
        leaving: true,
        ..candidate("b", true)
    }];
    assert_eq!(pick_deputy(&leaving, &id("a"), Some(&id("b"))), None);
}

/// What a network does to one write.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    ReplyLost,
    Late,
    Lost,
}

/// A worker whose clock runs at `rate` thousandths of the true speed.
struct Judge {
    office: Office,
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
fn challenger_with_shorter_failover_time_leaves_the_lock_to_the_deputy() {
    // It would read the lock every 400 ms, and wait for two of those beyond the duration; the deputy reads it once a second.
    let mut quick = Office::new(id("quick"), F / 5, Duration::from_millis(400));
    let mut deputy = Office::new(id("deputy"), F * 3, POLL);
    let held = lock("leader", "1", Some("deputy"));
    let takes = |office: &Office, at: Moment| matches!(step(office, at), OfficeStep::Take { .. });
    let taken_by = |office: &mut Office, first: u64| {
        let poll = u64::try_from(office.poll().as_millis()).unwrap();
        (0..).map(|n| first + n * poll).find(|millis| {
            let at = Moment::from_origin(Duration::from_millis(*millis));
            office.look(at, Some(held.clone()));
            takes(office, at)
        })
    };
    let (first, second) = (taken_by(&mut deputy, 900), taken_by(&mut quick, 0));
    assert!(first < second, "{first:?} and {second:?}");
    // A deputy reads the lock of a leader with a shorter failover time as often as that asks for.
    let mut slow = Office::new(id("deputy"), F * 3, POLL);
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
                office: office(&format!("w{i}")),
                rate,
                rng: Rng::from_seed(i as u64),
            })
            .collect();
        let (mut lock, mut late, mut now) = (None, Vec::new(), 0);
        for (who, pause, fate) in script {
            now += pause;
            let leaders = judges.iter().filter(|judge| judge.office.leads(judge.clock(now))).count();
            prop_assert!(leaders <= 1, "{leaders} leaders at {now} ms");
            let judge = &mut judges[who];
            let at = judge.clock(now);
            judge.office.look(at, lock.clone());
            match judge.office.step(at, None, &mut judge.rng) {
                OfficeStep::Lead | OfficeStep::Follow => {}
                OfficeStep::Resign => { judge.office.resign(at); }
                OfficeStep::Take { expect, row } | OfficeStep::Heartbeat { expect, row } => {
                    judge.office.sending(at, &row);
                    match fate {
                        Fate::Answered if store(&mut lock, &expect, &row) => judge.office.written(row),
                        Fate::Answered => judge.office.refused(&row.version),
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
            let leaders = judges.iter().filter(|judge| judge.office.leads(judge.clock(now))).count();
            prop_assert!(leaders <= 1, "{leaders} leaders after a write at {now} ms");
        }
        // Heal: everybody polls every 500 ms and every write is answered.
        for _ in 0..40 {
            now += 500;
            for judge in &mut judges {
                let at = judge.clock(now);
                judge.office.look(at, lock.clone());
                match judge.office.step(at, None, &mut judge.rng) {
                    OfficeStep::Lead | OfficeStep::Follow => {}
                    OfficeStep::Resign => { judge.office.resign(at); }
                    OfficeStep::Take { expect, row } | OfficeStep::Heartbeat { expect, row } => {
                        judge.office.sending(at, &row);
                        if store(&mut lock, &expect, &row) { judge.office.written(row) } else { judge.office.refused(&row.version) }
                    }
                }
            }
        }
        prop_assert_eq!(judges.iter().filter(|judge| judge.office.leads(judge.clock(now))).count(), 1);
    }

    /// Clocks may be wrong by 5 % either way, and both read the lock as often as they mean to. The deputy has watched the leases.
    #[test]
    fn deputy_takes_the_lock_before_any_challenger(
        seconds in 1_u64..120, deputy_rate in 950_u64..=1050, challenger_rate in 950_u64..=1050,
        first_look in 0_u64..1000,
    ) {
        let held = LeaderLock { duration: Duration::from_secs(seconds), ..lock("leader", "1", Some("deputy")) };
        let taken = |name: &str, rate: u64, first: u64| {
            let mut judge = Judge { office: office(name), rate, rng: Rng::from_seed(rate) };
            judge.office.look(judge.clock(first), Some(held.clone()));
            // Real time passes between two looks as the own clock says.
            let pause = judge.office.poll().as_secs_f64() * 1000.0 * 1000.0 / rate as f64;
            (0..).map(|n| first + (f64::from(n) * pause) as u64).find(|at| {
                let at = judge.clock(*at);
                judge.office.look(at, Some(held.clone()));
                matches!(judge.office.step(at, None, &mut judge.rng), OfficeStep::Take { .. })
            })
        };
        let poll = 1100;
        let (deputy, challenger) = (taken("deputy", deputy_rate, first_look % poll), taken("challenger", challenger_rate, 0));
        prop_assert!(deputy < challenger, "{deputy:?} and {challenger:?}");
    }

    /// The tightest case: the leader falls silent right after a heartbeat, and a challenger watches as closely as it can.
    #[test]
    fn a_silent_leader_has_stopped_leading_when_the_lock_is_taken(
        leader_rate in 950_u64..=1050, challenger_rate in 950_u64..=1050, gap in 1_u64..200,
    ) {
        let judge = |name, rate| Judge { office: office(name), rate, rng: Rng::from_seed(rate) };
        let (mut leader, mut challenger) = (judge("leader", leader_rate), judge("challenger", challenger_rate));
        leader.office.look(leader.clock(0), None);
        let lock = perform(&mut leader.office, Moment::ZERO);
        let taken_at = (0..).step_by(usize::try_from(gap).unwrap()).find(|&now| {
            let at = challenger.clock(now);
            challenger.office.look(at, Some(lock.clone()));
            matches!(challenger.office.step(at, None, &mut challenger.rng), OfficeStep::Take { .. })
        });
        let taken_at = taken_at.unwrap();
        prop_assert!(!leader.office.leads(leader.clock(taken_at)), "taken at {taken_at} ms");
        prop_assert!(taken_at <= 10_000 * 1000 / challenger_rate + gap + 1);
    }
}
