//! The settings that a fleet lives under: a function of the seed.

use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::settings::{Settings, Strategy};

/// Settings short enough that all their limits are met within a scenario.
pub(super) fn settings(rng: &mut Rng) -> Settings {
    let failover_time = between(rng, 2000, 10_000);
    let strategy = match rng.one_in(4) {
        true => Strategy::throughput(),
        false => Strategy::LeaseCount,
    };
    let handoff_timeout = match rng.one_in(4) {
        // Too short for most batches: the owner mostly keeps what it should hand over.
        true => Duration::from_millis(100),
        false => between(rng, 2000, 10_000),
    };
    let checkpoint_interval = match rng.one_in(3) {
        true => between(rng, 0, 3000),
        false => Duration::from_secs(1),
    };
    let max_batch_records = match rng.one_in(3) {
        true => number(rng, 1, 20),
        false => 10_000,
    };
    let mut settings = Settings::default();
    settings.leases.failover_time = failover_time;
    settings.reading.stall_timeout = failover_time + between(rng, 0, 5000);
    settings.reading.stall_tries = number(rng, 1, 3);
    settings.leases.handoff_timeout = handoff_timeout;
    settings.shutdown.drain_timeout = between(rng, 2000, 12_000);
    settings.checkpoints.interval = checkpoint_interval;
    settings.memory.prefetch_batches = number(rng, 1, 4);
    settings.reading.max_batch_records = max_batch_records;
    settings.leases.discovery_interval = between(rng, 100, 1000);
    settings.leases.parent_poll_interval = between(rng, 100, 1000);
    settings.leases.cleanup = !rng.one_in(4);
    settings.assignment.strategy = strategy;
    settings.assignment.max_moves = if rng.one_in(3) { 1 } else { 10 };
    settings.assignment.concurrent_writes = if rng.one_in(3) { 1 } else { 16 };
    debug_assert_eq!(settings.validate(), Ok(()));
    settings
}

fn between(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(least + rng.below(most - least + 1))
}

fn number(rng: &mut Rng, least: u32, most: u32) -> u32 {
    let more = rng.below(u64::from(most - least) + 1);
    least + u32::try_from(more).unwrap_or(0)
}
