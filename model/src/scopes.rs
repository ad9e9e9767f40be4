//! The scopes that are checked: how large each is, and what may go wrong in it.

use crate::elections::{ElectionsBudget, ElectionsConfig};
use crate::fixtures::Lineage;
use crate::fleet::{Budget, Config};

const NO_FAULTS: Budget = Budget {
    crashes: 0,
    restarts: 0,
    freezes: 0,
    cuts: 0,
    lost: 0,
    late: 0,
    leaves: 0,
    handoffs: 0,
};

const BASE: Config = Config {
    name: "",
    workers: 2,
    planners: 1,
    lineage: Lineage::Open(1),
    records: 1,
    owner: None,
    cleanup: false,
    window: 3,
    calm: 9,
    faults: NO_FAULTS,
    broken: None,
};

/// Scopes that take seconds together.
pub fn small() -> Vec<Config> {
    vec![
        Config {
            name: "a crash",
            lineage: Lineage::Open(2),
            faults: Budget {
                crashes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a pause",
            owner: Some(0),
            window: 6,
            records: 2,
            faults: Budget {
                freezes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "an owner is cut off",
            owner: Some(0),
            window: 5,
            faults: Budget { cuts: 1, ..NO_FAULTS },
            ..BASE
        },
        Config {
            name: "a crash of one of two leaders",
            planners: 2,
            window: 2,
            faults: Budget {
                crashes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a process starts again while a write of its own hangs",
            owner: Some(0),
            window: 3,
            faults: Budget {
                crashes: 1,
                restarts: 1,
                late: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a handoff",
            lineage: Lineage::Open(2),
            owner: Some(0),
            window: 4,
            faults: Budget {
                handoffs: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a split, and a crash",
            lineage: Lineage::Split,
            owner: Some(0),
            window: 2,
            cleanup: true,
            faults: Budget {
                crashes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a merge, and a lost reply",
            lineage: Lineage::Merge,
            window: 2,
            cleanup: true,
            faults: Budget { lost: 1, ..NO_FAULTS },
            ..BASE
        },
        Config {
            name: "a worker leaves, and a reply is lost",
            owner: Some(0),
            faults: Budget {
                leaves: 1,
                lost: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
    ]
}

/// Scopes that take minutes.
pub fn large() -> Vec<Config> {
    vec![
        Config {
            name: "three workers, a crash and a restart",
            workers: 3,
            lineage: Lineage::Open(3),
            window: 2,
            faults: Budget {
                crashes: 1,
                restarts: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a pause and a late write",
            owner: Some(0),
            window: 6,
            records: 2,
            faults: Budget {
                freezes: 1,
                late: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "an owner is cut off while a write hangs and a reply is lost",
            owner: Some(0),
            window: 5,
            records: 2,
            faults: Budget {
                cuts: 1,
                lost: 1,
                late: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "three workers, a crash and a pause",
            workers: 3,
            owner: Some(0),
            window: 5,
            faults: Budget {
                crashes: 1,
                freezes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a handoff, a crash and a lost reply",
            lineage: Lineage::Open(2),
            owner: Some(0),
            window: 4,
            faults: Budget {
                handoffs: 1,
                crashes: 1,
                lost: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a handoff and a pause",
            lineage: Lineage::Open(2),
            owner: Some(0),
            window: 3,
            faults: Budget {
                handoffs: 1,
                freezes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "two leaders, a pause",
            planners: 2,
            window: 6,
            faults: Budget {
                freezes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "two leaders, a split, a crash",
            planners: 2,
            lineage: Lineage::Split,
            owner: Some(0),
            window: 3,
            faults: Budget {
                crashes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "a split and a merge, a crash, cleanup",
            lineage: Lineage::SplitAndMerge,
            owner: Some(0),
            window: 3,
            cleanup: true,
            faults: Budget {
                crashes: 1,
                ..NO_FAULTS
            },
            ..BASE
        },
        Config {
            name: "three workers, a split and a merge, a lost reply",
            workers: 3,
            lineage: Lineage::SplitAndMerge,
            owner: Some(0),
            window: 2,
            faults: Budget { lost: 1, ..NO_FAULTS },
            ..BASE
        },
    ]
}

const ELECTIONS: ElectionsConfig = ElectionsConfig {
    name: "",
    workers: 2,
    quiet: 3,
    window: 3,
    calm: 20,
    faults: ElectionsBudget {
        crashes: 0,
        freezes: 0,
        lost: 0,
        late: 0,
    },
    broken: None,
};

/// Scopes of the elections that take seconds together.
pub fn small_elections() -> Vec<ElectionsConfig> {
    vec![
        ElectionsConfig {
            name: "elections of two, one dies",
            faults: ElectionsBudget {
                crashes: 1,
                ..ELECTIONS.faults
            },
            ..ELECTIONS
        },
        ElectionsConfig {
            name: "elections of three, one dies",
            workers: 3,
            window: 3,
            faults: ElectionsBudget {
                crashes: 1,
                ..ELECTIONS.faults
            },
            ..ELECTIONS
        },
        ElectionsConfig {
            name: "elections of two, one stands still",
            window: 8,
            faults: ElectionsBudget {
                freezes: 1,
                ..ELECTIONS.faults
            },
            ..ELECTIONS
        },
    ]
}

/// Scopes of the elections that take minutes.
pub fn large_elections() -> Vec<ElectionsConfig> {
    vec![
        ElectionsConfig {
            name: "elections of three, two die",
            workers: 3,
            window: 8,
            faults: ElectionsBudget {
                crashes: 2,
                ..ELECTIONS.faults
            },
            ..ELECTIONS
        },
        ElectionsConfig {
            name: "elections of three, one dies, a heartbeat hangs, a reply is lost",
            workers: 3,
            window: 4,
            faults: ElectionsBudget {
                crashes: 1,
                lost: 1,
                late: 1,
                ..ELECTIONS.faults
            },
            ..ELECTIONS
        },
        ElectionsConfig {
            name: "elections of three, one dies, one stands still",
            workers: 3,
            window: 4,
            faults: ElectionsBudget {
                crashes: 1,
                freezes: 1,
                ..ELECTIONS.faults
            },
            ..ELECTIONS
        },
    ]
}
