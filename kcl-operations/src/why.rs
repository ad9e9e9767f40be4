//! Sentences: how a shard came to its state.

use std::time::Duration;

use crate::state::ShardState;
use crate::text::{duration_text, listed};
use crate::view::{FleetView, ShardView, WorkerView};

impl FleetView {
    /// How the shard of this name, or lease key, came to its state, in sentences: the state with its rule, who has it, where it stands, what it
    /// waits for, its parents and children, and what to do. `None` where no lease has the name.
    ///
    /// Where an application reads many streams and several have a shard of the name, the sentences are of all.
    pub fn why(&self, name: &str) -> Option<Vec<String>> {
        let mut sentences = Vec::new();
        for shard in self.shards_named(name) {
            sentences.extend(self.sentences(shard));
        }
        (!sentences.is_empty()).then_some(sentences)
    }

    fn sentences(&self, shard: &ShardView) -> Vec<String> {
        let mut lines = vec![format!(
            "{} is {}: {}.",
            shard.lease,
            shard.state,
            shard.state.rule(&self.thresholds)
        )];
        lines.extend(self.ownership(shard));
        lines.extend(place(shard));
        lines.extend(waiting(shard));
        lines.extend(orders(shard));
        lines.extend(lineage(shard));
        lines.extend(advice(shard));
        lines
    }

    fn ownership(&self, shard: &ShardView) -> Vec<String> {
        let Some(owner) = &shard.owner else {
            let live = self.summary.live_workers + self.summary.unknown_workers;
            return match (shard.state, live) {
                (ShardState::Ended | ShardState::WaitingForParent, _) => vec!["No worker has it.".to_owned()],
                (_, 0) => vec!["No worker has it, and no worker is live.".to_owned()],
                (_, live) => {
                    let full = self.workers.iter().filter(|worker| worker.is_live == Some(true));
                    let full =
                        full.filter(|worker| worker.max_leases.is_some_and(|most| worker.leases >= most));
                    let full = full.count();
                    let mut line = match live {
                        1 => "No worker has it, though 1 is live.".to_owned(),
                        live => format!("No worker has it, though {live} are live."),
                    };
                    if full > 0 {
                        line += &format!(" {full} of them have as many leases as they want.");
                    }
                    vec![line]
                }
            };
        };
        let mut lines = Vec::new();
        let worker = self.workers.iter().find(|worker| worker.worker == *owner);
        lines.push(match &shard.next_owner {
            Some(next) => format!("{owner} processes it and hands it over to {next}."),
            None => format!("{owner} has it{}.", worker.map(role).unwrap_or_default()),
        });
        if shard.state == ShardState::Ended {
            return lines;
        }
        if let Some(silent) = &shard.silent_owner {
            lines.push(format!(
                "Its owner is silent: {silent}. Another worker takes a lease that stands still for the failover time."
            ));
        }
        if worker.is_some_and(|worker| worker.is_live.is_none()) {
            lines.push(format!(
                "{owner} has no row, as workers of the Java KCL 2.x: whether it lives shows only while the counter of the lease is watched, as with --watch."
            ));
        }
        if shard.is_java {
            lines.push(
                "A Java worker wrote the row last: it says neither lag, nor progress, nor what the shard waits for.".to_owned(),
            );
        }
        if shard.owner_switches > 1 {
            lines.push(format!(
                "Its owner changed {} times since the last checkpoint.",
                shard.owner_switches
            ));
        }
        lines
    }
}

fn role(worker: &WorkerView) -> String {
    match (worker.is_leader, worker.is_standby) {
        (true, _) => ", the leader".to_owned(),
        (false, true) => ", the standby of the leader".to_owned(),
        (false, false) => String::new(),
    }
}

fn place(shard: &ShardView) -> Vec<String> {
    if shard.state == ShardState::Ended {
        return vec!["Every record in it is processed.".to_owned()];
    }
    let mut lines = vec![match (shard.checkpoint.as_str(), shard.sub_sequence) {
        (sentinel, 0) if sentinel.starts_with(|first: char| first.is_ascii_uppercase()) => {
            format!("Nothing is checkpointed yet: it starts at {sentinel}.")
        }
        (sequence, 0) => format!("Its checkpoint is {sequence}."),
        (sequence, sub) => format!("Its checkpoint is {sequence}, user record {sub} in it."),
    }];
    if shard.has_pending_checkpoint {
        lines.push(
            "A checkpoint is prepared and not committed: its processor decides what becomes of it."
                .to_owned(),
        );
    }
    let text = |millis: u64| duration_text(Duration::from_millis(millis));
    if let Some(lag) = shard.lag_ms {
        let pace = match shard.catch_up_s {
            Some(0) | None => String::new(),
            Some(secs) => format!(
                ", and has caught up in about {}",
                duration_text(Duration::from_secs(secs))
            ),
        };
        lines.push(format!(
            "Reading is {} behind the newest record{pace}.",
            text(lag)
        ));
    }
    if let Some(freshness) = shard.freshness_ms.filter(|freshness| *freshness > 0) {
        lines.push(format!(
            "The oldest record that is not finished is {} old.",
            text(freshness)
        ));
    }
    if let Some(progress) = shard.last_progress_ms {
        lines.push(format!("Its last progress was {} ago.", text(progress)));
    }
    lines
}

fn waiting(shard: &ShardView) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(reason) = &shard.waiting {
        lines.push(format!("It waits: {}.", wait_text(reason)));
    }
    if let Some(record) = &shard.failing_record {
        let attempts = match shard.attempts {
            0 | 1 => String::new(),
            many => format!(" after {many} attempts"),
        };
        lines.push(format!("The record at {record} cannot be processed{attempts}."));
    }
    if let Some(concern) = &shard.concern {
        lines.push(format!("Its worker is concerned: {concern}."));
    }
    lines
}

/// The last order, and its answer.
fn orders(shard: &ShardView) -> Vec<String> {
    let mut lines = Vec::new();
    if !shard.orders.is_empty() {
        lines.push(format!("Orders hold: {}.", listed(&shard.orders)));
    }
    let Some(last) = shard.order_history.last() else {
        return lines;
    };
    let at = kcl_core::types::Timestamp::from_millis(last.at_ms);
    let reason = last.reason.as_ref().map(|reason| format!(", because: {reason}"));
    lines.push(format!(
        "{} ordered `{}` at {at}{}.",
        last.author,
        last.order,
        reason.unwrap_or_default()
    ));
    lines.push(match (&shard.refused, shard.answered_revision) {
        (Some(refusal), _) => format!("The owner refused it: {refusal}."),
        (None, Some(answered)) if answered >= last.revision => "The owner obeys it.".to_owned(),
        (None, _) if shard.owner.is_none() => "The next owner obeys it.".to_owned(),
        (None, _) => "The owner has not answered it yet.".to_owned(),
    });
    lines
}

/// A wait reason, by its name in the metrics, in words.
fn wait_text(reason: &str) -> &str {
    match reason {
        "parents" => "its parents are not finished",
        "initialize" => "`initialize` of the processor runs",
        "callback" => "a call of the processor runs",
        "tick" => "`tick` of the processor runs",
        "hold" => "it is held after a failure of the processor",
        "rate_limit" => "the service or a limit of the application asks for a slower pace",
        "paused" => "it is paused",
        "byte_budget" => "its worker holds as many bytes of records as it may",
        "draining" => "its worker is about to give the lease up",
        "suspended" => "the lease could not be renewed in time",
        "checkpoints" => "the shard has ended, and the application has not checkpointed everything",
        "dead_letter" => "the dead-letter sink has not acknowledged a record",
        "gap" => "retention took records that were not read, and an operator has not accepted that",
        other => other,
    }
}

fn lineage(shard: &ShardView) -> Vec<String> {
    let mut lines = Vec::new();
    if !shard.unfinished_parents.is_empty() {
        lines.push(format!(
            "It starts when {} {} finished.",
            listed(&shard.unfinished_parents),
            if shard.unfinished_parents.len() == 1 {
                "is"
            } else {
                "are"
            }
        ));
    } else if !shard.parents.is_empty() {
        lines.push(format!(
            "It came from {}, which is finished.",
            listed(&shard.parents)
        ));
    }
    if !shard.children.is_empty() {
        lines.push(format!("It became {}.", listed(&shard.children)));
    }
    lines
}

fn advice(shard: &ShardView) -> Option<String> {
    let text = match shard.state {
        ShardState::Unowned => {
            "Start a worker, or raise `max_leases`; the log of the leader names the limit that stands in the way."
        }
        ShardState::Stalled if shard.silent_owner.is_some() => {
            "Look whether a worker runs at all: a lease whose owner died goes on elsewhere within seconds of the failover time. If all are well, \
             compare their clocks with this host's."
        }
        ShardState::Stalled => "Look at the log of its owner: it says what the consumer was doing.",
        ShardState::Held => {
            "Deploy a processor that takes the record, or let the error policy set it aside; the log of its owner has the error."
        }
        ShardState::Lagging if shard.orders.iter().any(|order| order.starts_with("limit")) => {
            "An order limits how fast it is read: `kcl limit --off` ends that."
        }
        ShardState::Lagging => {
            "Compare the lag with the age of the oldest unfinished record: where both grow, add workers or shards; where only the second \
             does, the processor is the limit."
        }
        ShardState::Unknown => "Measure the lag at the stream with --measure-lag.",
        ShardState::Ok | ShardState::Paused | ShardState::WaitingForParent | ShardState::Ended => {
            return None;
        }
    };
    Some(text.to_owned())
}
