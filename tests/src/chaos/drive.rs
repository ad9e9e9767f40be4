//! Does a plan to a fleet, and takes everything back when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};

use super::fault::Service;
use super::fleet::ChaosFleet;
use super::plan::{Back, Injection, PlanStep};
use crate::wait::eventually;

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(20);
/// How long a worker that was asked to leave may take: its own limit is 25 s, and the machine may be busy.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

/// The events that are due, by their time and, within that, by the order in which they were planned.
#[derive(Debug, Default)]
struct Agenda {
    due: BTreeMap<(Duration, u64), Due>,
    planned: u64,
}

#[derive(Debug)]
enum Due {
    Inject(Injection),
    /// The disturbance with this number is over.
    Calm {
        number: u64,
        place: usize,
        service: Service,
    },
    Thaw {
        place: usize,
    },
    Start {
        place: usize,
        same_id: bool,
    },
}

impl Agenda {
    fn plan(&mut self, at: Duration, what: Due) {
        self.planned += 1;
        self.due.insert((at, self.planned), what);
    }

    /// The next that is due by now.
    fn next(&mut self, now: Duration) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// Does everything that is planned, each at its time, and counts it by kind.
///
/// # Panics
///
/// When a worker ends that was not asked to.
pub(super) async fn inflict(fleet: &mut ChaosFleet, plan: Vec<PlanStep>) -> BTreeMap<&'static str, u64> {
    let clock = TokioClock::new();
    let began = clock.now();
    let mut injected: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut agenda = Agenda::default();
    for PlanStep { at, injection } in plan {
        *injected.entry(injection.kind()).or_default() += 1;
        agenda.plan(at, Due::Inject(injection));
    }
    let mut disturber = Disturber::default();
    loop {
        let now = clock.now().saturating_since(began);
        look_after(fleet, now, &mut agenda);
        if let Some(due) = agenda.next(now) {
            disturber.perform(fleet, due, now, &mut agenda).await;
        } else if agenda.due.is_empty() {
            return injected;
        } else {
            clock.sleep(TICK).await;
        }
    }
}

/// Takes every fault back: the network is whole, every process runs, and where one has gone another has started.
///
/// # Panics
///
/// When a worker that was asked to leave does not, or not in order.
pub(super) async fn heal(fleet: &mut ChaosFleet) {
    for place in 0..fleet.places.len() {
        for service in Service::ALL {
            fleet.disturb(place, service, None);
        }
        if fleet.places[place].leaving.is_some() {
            let process = fleet.at(place).expect("it leaves");
            process.ended(LEAVES_WITHIN).await;
        }
    }
    let mut agenda = Agenda::default();
    look_after(fleet, Duration::ZERO, &mut agenda);
    while let Some(due) = agenda.next(Duration::MAX) {
        if let Due::Start { place, same_id } = due {
            fleet.start_worker(place, same_id);
        }
    }
}

/// Asks everybody to leave, and waits until they have.
///
/// # Panics
///
/// When a worker does not leave, or not in order.
pub(super) async fn drain(fleet: &mut ChaosFleet) {
    let all: Vec<usize> = fleet.places.iter().filter_map(|place| place.process).collect();
    for number in &all {
        fleet.processes[*number].terminate();
    }
    for number in all {
        let process = &mut fleet.processes[number];
        let status = process.ended(LEAVES_WITHIN).await;
        assert!(status.success(), "{} ended with {status}", process.name());
    }
    fleet.places.iter_mut().for_each(|place| place.process = None);
}

/// Notes which processes have left as asked, and plans their successors. No other may end.
fn look_after(fleet: &mut ChaosFleet, now: Duration, agenda: &mut Agenda) {
    for place in 0..fleet.places.len() {
        let leaving = fleet.places[place].leaving;
        let Some(process) = fleet.at(place) else { continue };
        let Some(status) = process.status() else { continue };
        let name = process.name().to_owned();
        let Some(Back { after, same_id }) = leaving else {
            panic!("{name} ended by itself ({status})");
        };
        assert!(
            status.success(),
            "{name} was asked to leave and ended with {status}"
        );
        fleet.journal.note(&format!("place {place}: {name} has left"));
        fleet.places[place].process = None;
        fleet.places[place].leaving = None;
        agenda.plan(now + after, Due::Start { place, same_id });
    }
}

/// Knows which disturbance is the newest where, so that the end of an older one does not end it.
#[derive(Debug, Default)]
struct Disturber {
    newest: BTreeMap<(usize, Service), u64>,
    number: u64,
}

impl Disturber {
    async fn perform(&mut self, fleet: &mut ChaosFleet, due: Due, now: Duration, agenda: &mut Agenda) {
        match due {
            Due::Inject(injection) => {
                fleet.journal.note(&injection.to_string());
                self.inject(fleet, injection, now, agenda).await;
            }
            Due::Calm {
                number,
                place,
                service,
            } => {
                if self.newest.get(&(place, service)) == Some(&number) {
                    fleet
                        .journal
                        .note(&format!("place {place}: {service} is well again"));
                    fleet.disturb(place, service, None);
                }
            }
            Due::Thaw { place } => {
                fleet.journal.note(&format!("place {place}: SIGCONT"));
                fleet.at(place).expect("it stands still").thaw();
            }
            Due::Start { place, same_id } => fleet.start_worker(place, same_id),
        }
    }

    async fn inject(
        &mut self,
        fleet: &mut ChaosFleet,
        injection: Injection,
        now: Duration,
        agenda: &mut Agenda,
    ) {
        match injection {
            Injection::Disturb {
                place,
                services,
                disturbance,
                lasting,
            } => {
                self.number += 1;
                let number = self.number;
                for service in services {
                    self.newest.insert((place, service), number);
                    fleet.disturb(place, service, Some(disturbance));
                    let calm = Due::Calm {
                        number,
                        place,
                        service,
                    };
                    agenda.plan(now + lasting, calm);
                }
            }
            Injection::Kill { place, back } => {
                fleet.at(place).expect("a process runs there").kill();
                fleet.places[place].process = None;
                let same_id = back.same_id;
                agenda.plan(now + back.after, Due::Start { place, same_id });
            }
            Injection::Freeze { place, lasting } => {
                fleet.at(place).expect("a process runs there").freeze();
                agenda.plan(now + lasting, Due::Thaw { place });
            }
            Injection::Terminate { place, back } => {
                fleet.at(place).expect("a process runs there").terminate();
                fleet.places[place].leaving = Some(back);
            }
            Injection::Split(which) => {
                let open = fleet.testbed.open_shards(&fleet.stream).await;
                let shard = &open[below(which, open.len())];
                fleet.journal.note(&format!("{} splits", shard.shard_id()));
                fleet.testbed.split(&fleet.stream, shard).await;
            }
            Injection::Merge(which) => {
                let open = fleet.testbed.open_shards(&fleet.stream).await;
                let first = below(which, open.len() - 1);
                let (one, other) = (&open[first], &open[first + 1]);
                let ids = format!("{} and {} merge", one.shard_id(), other.shard_id());
                fleet.journal.note(&ids);
                fleet.testbed.merge(&fleet.stream, one, other).await;
            }
        }
    }
}

fn below(which: u64, length: usize) -> usize {
    let length = u64::try_from(length).expect("a few");
    usize::try_from(which % length).expect("below a few")
}

/// Waits for a condition of the fleet in which every worker goes on living.
pub(super) async fn until<T>(
    fleet: &mut ChaosFleet,
    limit: Duration,
    mut condition: impl AsyncFnMut(&mut ChaosFleet) -> Result<T, String>,
) -> T {
    eventually(limit, async || {
        look_after(fleet, Duration::ZERO, &mut Agenda::default());
        condition(fleet).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_events_come_by_time_then_by_plan() {
        let mut agenda = Agenda::default();
        let start = |place| Due::Start { place, same_id: true };
        let second = Duration::from_secs(1);
        agenda.plan(2 * second, start(2));
        agenda.plan(second, start(0));
        agenda.plan(second, start(1));
        let mut places = Vec::new();
        while let Some(Due::Start { place, .. }) = agenda.next(second) {
            places.push(place);
        }
        assert_eq!(places, [0, 1]);
        assert!(matches!(
            agenda.next(2 * second),
            Some(Due::Start { place: 2, .. })
        ));
    }
}
