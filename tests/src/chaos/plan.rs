//! The plan of a round: which fault, when and on which process. All follows from a seed.

use std::fmt;
use std::time::Duration;

use kcl_core::clock::Rng;

use super::fault::{Disturbance, NetworkFault, Service};

/// How large a round is.
#[derive(Debug, Clone, Copy)]
pub struct ChaosShape {
    /// Places for workers: in each there is at most one process at a time.
    pub places: usize,
    /// Shards at the beginning.
    pub shards: i32,
    /// Records per second, of all shards together.
    pub rate: u32,
    /// The failover time.
    pub failover: Duration,
    /// How long faults begin.
    pub chaos: Duration,
    /// How many times the network is disturbed, beside one partition.
    pub disturbances: usize,
}

/// The disturbance.
#[derive(Debug, Clone, PartialEq)]
pub enum Injection {
    /// Something is wrong between the worker at a place and these services, for a while.
    Disturb {
        /// The worker's place.
        place: usize,
        /// One or both.
        services: Vec<Service>,
        /// The fault.
        disturbance: Disturbance,
        /// How long.
        lasting: Duration,
    },
    /// `kill -9`.
    Kill {
        /// The worker's place.
        place: usize,
        /// When the next process starts there.
        back: Back,
    },
    /// SIGSTOP, then SIGCONT.
    Freeze {
        /// The worker's place.
        place: usize,
        /// How long it stands still.
        lasting: Duration,
    },
    /// SIGTERM.
    Terminate {
        /// The worker's place.
        place: usize,
        /// When the next process starts there, counted from the end of the old one.
        back: Back,
    },
    /// An open shard is split, the one at this place in the order of hash keys, modulo their number.
    Split(u64),
    /// An open shard is merged with the next one, counted in the same way.
    Merge(u64),
}

/// A process that comes after one that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// How long after.
    pub after: Duration,
    /// Whether it has the worker id of the one before.
    pub same_id: bool,
}

/// An injection and its time, from the beginning of the chaos.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanStep {
    /// When.
    pub at: Duration,
    /// The disturbance.
    pub injection: Injection,
}

impl Injection {
    /// The kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Disturb { disturbance, .. } => disturbance.fault.name(),
            Self::Kill { .. } => "kill -9",
            Self::Freeze { .. } => "SIGSTOP",
            Self::Terminate { .. } => "SIGTERM",
            Self::Split(_) => "split",
            Self::Merge(_) => "merge",
        }
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disturb {
                place,
                services,
                disturbance,
                lasting,
            } => {
                let services: Vec<String> = services.iter().map(Service::to_string).collect();
                let services = services.join(" and ");
                write!(f, "place {place}: {disturbance} to {services} for {lasting:.1?}")
            }
            Self::Kill { place, back } => write!(f, "place {place}: kill -9, {back}"),
            Self::Freeze { place, lasting } => write!(f, "place {place}: SIGSTOP for {lasting:.1?}"),
            Self::Terminate { place, back } => write!(f, "place {place}: SIGTERM, {back}"),
            Self::Split(_) => f.write_str("split of a shard"),
            Self::Merge(_) => f.write_str("merge of two shards"),
        }
    }
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = if self.same_id { "the same id" } else { "a new id" };
        write!(f, "back after {:.1?} with {id}", self.after)
    }
}

/// The plan of this seed, in the order of time. Every round has each fault of a process once, a split, a merge and a partition.
pub fn plan(seed: u64, shape: &ChaosShape) -> Vec<PlanStep> {
    let mut rng = Rng::from_seed(seed).child("chaos plan");
    let mut kinds = vec![
        Kind::Kill,
        Kind::Freeze,
        Kind::Terminate,
        Kind::Split,
        Kind::Merge,
        Kind::Partition,
    ];
    kinds.extend(std::iter::repeat_n(Kind::Disturb, shape.disturbances));
    shuffle(&mut kinds, &mut rng);
    let pace = shape.chaos / u32::try_from(kinds.len()).unwrap_or(1);
    // When the process at each place has nothing of its own to suffer any more.
    let mut free = vec![Duration::ZERO; shape.places];
    let mut steps = Vec::new();
    for (number, kind) in (0_u32..).zip(kinds) {
        let at = pace * number + between(&mut rng, Duration::ZERO, pace);
        let injection = kind.injection(at, shape, &mut free, &mut rng);
        steps.push(PlanStep { at, injection });
    }
    steps
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Disturb,
    Partition,
    Kill,
    Freeze,
    Terminate,
    Split,
    Merge,
}

impl Kind {
    fn injection(self, at: Duration, shape: &ChaosShape, free: &mut [Duration], rng: &mut Rng) -> Injection {
        let failover = shape.failover;
        match self {
            Self::Split => Injection::Split(rng.bits()),
            Self::Merge => Injection::Merge(rng.bits()),
            Self::Kill => {
                let back = back(rng, failover);
                let place = place_of_a_process(at, at + back.after, free, rng);
                Injection::Kill { place, back }
            }
            Self::Freeze => {
                let lasting = 2 * failover;
                let place = place_of_a_process(at, at + lasting, free, rng);
                Injection::Freeze { place, lasting }
            }
            Self::Terminate => {
                // How long it takes to leave is its own affair, so nothing else happens to a process at this place.
                let place = place_of_a_process(at, Duration::MAX, free, rng);
                let back = back(rng, failover);
                Injection::Terminate { place, back }
            }
            Self::Partition => disturbed(Disturbance::always(NetworkFault::Partition), shape, rng),
            Self::Disturb => {
                let latency = between(rng, Duration::from_millis(100), failover / 2);
                let faults = [
                    NetworkFault::Latency(latency),
                    NetworkFault::BlackHole,
                    NetworkFault::LostReply,
                    NetworkFault::Reset,
                    NetworkFault::ServerError,
                    NetworkFault::Throttle,
                    NetworkFault::Partition,
                ];
                let fault = pick(&faults, rng);
                let one_in = pick(&[1, 1, 2, 4], rng);
                let one_in = if fault == NetworkFault::Partition {
                    1
                } else {
                    one_in
                };
                disturbed(Disturbance { fault, one_in }, shape, rng)
            }
        }
    }
}

fn disturbed(disturbance: Disturbance, shape: &ChaosShape, rng: &mut Rng) -> Injection {
    let both = Service::ALL.to_vec();
    let services = pick(&[vec![Service::Kinesis], vec![Service::Dynamo], both], rng);
    Injection::Disturb {
        place: index(shape.places, rng),
        services,
        disturbance,
        // From a hiccup to what costs the leases.
        lasting: between(rng, shape.failover / 3, 2 * shape.failover),
    }
}

fn back(rng: &mut Rng, failover: Duration) -> Back {
    Back {
        after: between(rng, Duration::from_millis(200), 2 * failover),
        same_id: rng.one_in(2),
    }
}

/// A place whose process has recovered by now, or else the one that has soonest; it is busy from now on.
fn place_of_a_process(now: Duration, until: Duration, free: &mut [Duration], rng: &mut Rng) -> usize {
    // A restarted process is given a moment to do something.
    let settled =
        |since: Duration| since == Duration::ZERO || since.saturating_add(Duration::from_secs(2)) <= now;
    let ready: Vec<usize> = (0..free.len()).filter(|place| settled(free[*place])).collect();
    let place = match ready.len() {
        0 => (0..free.len()).min_by_key(|place| free[*place]).unwrap_or(0),
        _ => pick(&ready, rng),
    };
    free[place] = until;
    place
}

fn pick<T: Clone>(from: &[T], rng: &mut Rng) -> T {
    from[index(from.len(), rng)].clone()
}

fn index(length: usize, rng: &mut Rng) -> usize {
    let length = u64::try_from(length).expect("a few");
    usize::try_from(rng.below(length)).expect("below a few")
}

fn between(rng: &mut Rng, least: Duration, most: Duration) -> Duration {
    let spread = most.saturating_sub(least).as_millis();
    least + Duration::from_millis(rng.below(u64::try_from(spread).unwrap_or(u64::MAX)))
}

fn shuffle<T>(all: &mut [T], rng: &mut Rng) {
    for last in (1..all.len()).rev() {
        all.swap(last, index(last + 1, rng));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const SHAPE: ChaosShape = ChaosShape {
        places: 4,
        shards: 4,
        rate: 100,
        failover: Duration::from_secs(3),
        chaos: Duration::from_secs(20),
        disturbances: 7,
    };

    #[test]
    fn seed_has_one_plan_and_another_seed_another() {
        assert_eq!(plan(7, &SHAPE), plan(7, &SHAPE));
        assert_ne!(plan(7, &SHAPE), plan(8, &SHAPE));
    }

    #[test]
    fn every_plan_is_ordered_and_hard_enough() {
        for seed in 0..500 {
            let steps = plan(seed, &SHAPE);
            assert_eq!(steps.len(), 13);
            assert!(steps.is_sorted_by_key(|step| step.at));
            assert!(steps.iter().all(|step| step.at < SHAPE.chaos));
            let kinds: BTreeSet<&str> = steps.iter().map(|step| step.injection.kind()).collect();
            for kind in ["kill -9", "SIGSTOP", "SIGTERM", "split", "merge", "partition"] {
                assert!(kinds.contains(kind), "{seed}: no {kind}");
            }
        }
    }

    #[test]
    fn twenty_seeds_have_every_kind_of_fault() {
        let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
        for step in (0..20).flat_map(|seed| plan(seed, &SHAPE)) {
            *kinds.entry(step.injection.kind()).or_default() += 1;
        }
        assert_eq!(kinds.len(), 12, "{kinds:?}");
        assert!(kinds.values().all(|count| *count >= 5), "{kinds:?}");
    }

    #[test]
    fn a_process_suffers_one_thing_at_a_time() {
        for seed in 0..500 {
            let mut busy = [Duration::ZERO; SHAPE.places];
            for PlanStep { at, injection } in plan(seed, &SHAPE) {
                let (place, until) = match injection {
                    Injection::Kill { place, back } => (place, at + back.after),
                    Injection::Freeze { place, lasting } => (place, at + lasting),
                    Injection::Terminate { place, .. } => (place, Duration::MAX),
                    Injection::Disturb { .. } | Injection::Split(_) | Injection::Merge(_) => continue,
                };
                assert!(busy[place] <= at, "seed {seed}: place {place} at {at:?}");
                busy[place] = until;
            }
        }
    }
}
