//! The columns of shards and workers.

use std::time::Duration;

use kcl_operations::{FleetView, ShardState, ShardView, Summary, WorkerView, count_text, duration_text};

use crate::output::{Column, Style, column, painted, printable};

/// How much of a sequence number is shown in a narrow table.
const SHORT_CHECKPOINT: usize = 12;

pub(crate) fn state_style(state: ShardState) -> Style {
    match state {
        ShardState::Ok => Style::Good,
        ShardState::Stalled | ShardState::Held | ShardState::Unowned => Style::Bad,
        ShardState::Lagging | ShardState::Paused => Style::Warn,
        ShardState::Ended | ShardState::WaitingForParent => Style::Dim,
        ShardState::Unknown | _ => Style::Plain,
    }
}

/// The style of a state by its word.
pub(crate) fn word_style(word: &str) -> Style {
    let state = ShardState::ALL.into_iter().find(|state| state.word() == word);
    state.map_or(Style::Plain, state_style)
}

pub(crate) fn millis_text(millis: Option<u64>) -> String {
    millis.map_or_else(dash, |millis| duration_text(Duration::from_millis(millis)))
}

pub(crate) fn secs_text(secs: Option<u64>) -> String {
    secs.map_or_else(dash, |secs| match secs {
        0 => "now".to_owned(),
        secs => duration_text(Duration::from_secs(secs)),
    })
}

pub(crate) fn rate_text(kib: Option<f64>) -> String {
    kib.map_or_else(dash, |kib| {
        format!("{}/s", kcl_operations::bytes_text(kib * 1024.0))
    })
}

fn number_text(number: Option<f64>) -> String {
    number.map_or_else(dash, |number| format!("{number:.1}"))
}

pub(crate) fn text_or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(dash)
}

fn list_text(names: &[String]) -> String {
    match names.is_empty() {
        true => dash(),
        false => names.join(" "),
    }
}

pub(crate) fn dash() -> String {
    "-".to_owned()
}

/// The last digits of a sequence number, or the whole sentinel, with the sub-sequence number where there is one.
pub(crate) fn short_checkpoint(shard: &ShardView) -> String {
    let text = &shard.checkpoint;
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    let cut = text.len().saturating_sub(SHORT_CHECKPOINT);
    let short = match text.get(cut..) {
        Some(end) if is_number && cut > 0 => format!("…{end}"),
        _ => text.clone(),
    };
    with_sub_sequence(short, shard)
}

fn with_sub_sequence(text: String, shard: &ShardView) -> String {
    match shard.sub_sequence {
        0 => text,
        sub => format!("{text}/{sub}"),
    }
}

/// The columns of `kcl status`.
pub(crate) fn shard_columns() -> Vec<Column<ShardView>> {
    vec![
        column("SHARD", |shard: &ShardView| shard.lease.clone()),
        column("STATE", |shard: &ShardView| shard.state.word().to_owned())
            .styled(|shard| state_style(shard.state)),
        column("OWNER", |shard: &ShardView| text_or_dash(shard.owner.as_ref())),
        column("NEXT", |shard: &ShardView| {
            text_or_dash(shard.next_owner.as_ref())
        })
        .wide(),
        column("CHECKPOINT", short_checkpoint),
        column("LAG", |shard: &ShardView| millis_text(shard.lag_ms)).number(),
        column("RATE", |shard: &ShardView| rate_text(shard.rate_kib_per_s)).number(),
        column("CATCH-UP", |shard: &ShardView| secs_text(shard.catch_up_s)).number(),
        column("ATTEMPTS", |shard: &ShardView| match shard.attempts {
            0 => dash(),
            attempts => attempts.to_string(),
        })
        .number(),
        column("LAST-PROGRESS", |shard: &ShardView| {
            millis_text(shard.last_progress_ms)
        })
        .number(),
        column("FRESHNESS", |shard: &ShardView| millis_text(shard.freshness_ms))
            .number()
            .wide(),
        column("READ/S", |shard: &ShardView| {
            number_text(shard.read_records_per_s)
        })
        .number()
        .wide(),
        column("DONE/S", |shard: &ShardView| {
            number_text(shard.finished_records_per_s)
        })
        .number()
        .wide(),
        column("WAITING", |shard: &ShardView| {
            text_or_dash(shard.waiting.as_ref())
        })
        .wide(),
        column("CONCERN", |shard: &ShardView| {
            text_or_dash(shard.concern.as_ref())
        })
        .wide(),
        column("ORDERS", |shard: &ShardView| list_text(&shard.orders)).wide(),
        column("REPORT-AGE", |shard: &ShardView| millis_text(shard.report_age_ms))
            .number()
            .wide(),
        column("PARENTS", |shard: &ShardView| list_text(&shard.parents)).wide(),
        column("CHILDREN", |shard: &ShardView| list_text(&shard.children)).wide(),
        column("GENERATION", |shard: &ShardView| shard.generation.to_string())
            .number()
            .wide(),
        column("COUNTER", |shard: &ShardView| shard.counter.to_string())
            .number()
            .wide(),
        column("STREAM", |shard: &ShardView| text_or_dash(shard.stream.as_ref())).wide(),
        column("SEQUENCE", |shard: &ShardView| {
            with_sub_sequence(shard.checkpoint.clone(), shard)
        })
        .wide(),
    ]
}

/// The columns of `kcl workers`.
pub(crate) fn worker_columns() -> Vec<Column<WorkerView>> {
    vec![
        column("WORKER", |worker: &WorkerView| worker.worker.clone()),
        column("LIVE", |worker: &WorkerView| {
            worker.is_live.map_or_else(|| "unknown".to_owned(), yes_no)
        })
        .styled(|worker| match worker.is_live {
            Some(true) => Style::Good,
            Some(false) => Style::Bad,
            None => Style::Plain,
        }),
        column("ROLE", role),
        column("LEASES", |worker: &WorkerView| worker.leases.to_string()).number(),
        column("CONCERN", |worker: &WorkerView| {
            worker.leases_of_concern.to_string()
        })
        .number(),
        column("INCOMING", |worker: &WorkerView| worker.incoming.to_string()).number(),
        column("MAX", |worker: &WorkerView| {
            worker.max_leases.map_or_else(dash, |most| most.to_string())
        })
        .number()
        .wide(),
        column("RATE", |worker: &WorkerView| {
            rate_text(Some(worker.rate_kib_per_s))
        })
        .number(),
        column("FAILOVER", |worker: &WorkerView| millis_text(worker.failover_ms)).number(),
        column("ROW-AGE", |worker: &WorkerView| millis_text(worker.row_age_ms)).number(),
        column("UPTIME", |worker: &WorkerView| millis_text(worker.uptime_ms)).number(),
        column("ORDERS", |worker: &WorkerView| list_text(&worker.orders)).wide(),
        column("VERSION", |worker: &WorkerView| match worker.is_java {
            true => "java".to_owned(),
            false => text_or_dash(worker.version.as_ref()),
        }),
    ]
}

fn role(worker: &WorkerView) -> String {
    match (worker.is_leader, worker.is_standby) {
        (true, _) => "leader".to_owned(),
        (false, true) => "standby".to_owned(),
        (false, false) => dash(),
    }
}

pub(crate) fn yes_no(is_so: bool) -> String {
    match is_so {
        true => "yes".to_owned(),
        false => "no".to_owned(),
    }
}

/// One line about the whole fleet.
pub(crate) fn heading(fleet: &FleetView, colours: bool) -> String {
    let Summary {
        state,
        live_workers,
        unknown_workers,
        open_leases,
        states,
        leader,
        ..
    } = &fleet.summary;
    let counts = states.iter().map(|(state, count)| format!("{count} {state}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let mut line = format!(
        "{}: {}, {}, {} ({})",
        printable(&fleet.application),
        painted(state, word_style(state), colours),
        count_text(*live_workers as usize, "live worker"),
        count_text(*open_leases as usize, "open lease"),
        if counts.is_empty() {
            "none".to_owned()
        } else {
            counts
        },
    );
    if *unknown_workers > 0 {
        line += &format!(
            ", {} without a row may live",
            count_text(*unknown_workers as usize, "worker")
        );
    }
    if let Some(lag) = fleet.summary.max_lag_ms {
        line += &format!(", at most {} behind", millis_text(Some(lag)));
    }
    if let Some(leader) = leader {
        line += &format!(", led by {}", printable(leader));
    }
    for row in &fleet.unreadable_rows {
        line += &format!("\nrow that cannot be read: {}", printable(row));
    }
    if let Some(unknown) = unknown_text(fleet) {
        line += &format!("\n{}", painted(&unknown, Style::Dim, colours));
    }
    line
}

/// The fact that the table does not say everything, if it does not.
fn unknown_text(fleet: &FleetView) -> Option<String> {
    let open = || {
        fleet
            .shards
            .iter()
            .filter(|shard| shard.state != ShardState::Ended)
    };
    let java = open().filter(|shard| shard.is_java).count();
    let unknown = open().filter(|shard| shard.state == ShardState::Unknown).count();
    match (unknown, java) {
        (0, 0) => None,
        (_, 0) => Some("some rows carry no report of their owner; --measure-lag asks the stream".to_owned()),
        (..) => Some(
            "rows that Java workers wrote last say neither lag, nor progress, nor reasons; --measure-lag asks the stream".to_owned(),
        ),
    }
}
