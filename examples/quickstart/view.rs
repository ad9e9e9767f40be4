//! Shows the fleet: a table that is drawn over and over on a terminal, and gives way to the whole scenario at the end; plain lines elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use kinesis_client::clock::{ClockExt as _, Moment};
use kinesis_client::source::Shard;
use kinesis_client::status::{LeaseStatus, WorkerStatus};
use kinesis_client::types::RecordPosition;

use crate::fleet::Fleet;
use crate::short;

const REFRESH: Duration = Duration::from_millis(200);
const EVENTS_SHOWN: usize = 8;

/// Shows the fleet until the view is stopped.
pub(crate) async fn show(fleet: Arc<Fleet>) {
    let mut screen = Screen {
        is_terminal: std::io::stdout().is_terminal(),
        height: 0,
        told: 0,
    };
    loop {
        let is_last = tokio::select! {
            biased;
            () = fleet.view_stopped() => true,
            () = fleet.clock.sleep(REFRESH) => false,
        };
        let text = match is_last {
            true => screen.last(&fleet),
            false => screen.refresh(&fleet),
        };
        // A closed pipe is no reason to fail: its reader has ended.
        let _ = std::io::stdout()
            .write_all(text.as_bytes())
            .and_then(|()| std::io::stdout().flush());
        if is_last {
            return;
        }
    }
}

struct Screen {
    is_terminal: bool,
    /// How many lines the last picture had.
    height: usize,
    /// How many events were shown already.
    told: usize,
}

impl Screen {
    /// The way to take the last picture off a terminal: up to its first line, and clear from there.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.height) {
            0 => String::new(),
            height => format!("\x1b[{height}A\x1b[J"),
        }
    }

    /// The last picture, when the scenario is over. On a terminal all that happened stands where the table was, which is about workers that have stopped.
    fn last(&mut self, fleet: &Fleet) -> String {
        if !self.is_terminal {
            return self.refresh(fleet);
        }
        let mut text = self.erase();
        for (at, event) in fleet.events() {
            let _ = writeln!(text, "  {} {event}", stamp(at));
        }
        text
    }

    fn refresh(&mut self, fleet: &Fleet) -> String {
        let mut text = String::new();
        if self.is_terminal {
            let picture = picture(fleet);
            text.push_str(&self.erase());
            self.height = picture.lines().count();
            text.push_str(&picture);
        } else {
            let events = fleet.events();
            for (at, event) in events.iter().skip(self.told) {
                let (sent, processed) = fleet.ledger.counts();
                let _ = writeln!(
                    text,
                    "{} {event} [{processed} of {sent} positions, {}]",
                    stamp(*at),
                    shares(fleet)
                );
            }
            self.told = events.len();
        }
        text
    }
}

fn picture(fleet: &Fleet) -> String {
    let (sent, processed) = fleet.ledger.counts();
    let statuses = fleet.statuses();
    let mut text = format!(
        "{} {sent} positions sent, {processed} processed\n\n",
        stamp(fleet.clock.now())
    );
    let _ = writeln!(
        text,
        "  {:<10} {:<10} {:<18} {:>8}  progress",
        "shard", "owner", "state", "records"
    );
    for shard in fleet.open_shards() {
        let _ = writeln!(text, "{}", row(&shard, &statuses));
    }
    let _ = writeln!(text, "\n  {}\n", shares(fleet));
    let events = fleet.events();
    for (at, event) in events.iter().skip(events.len().saturating_sub(EVENTS_SHOWN)) {
        let _ = writeln!(text, "  {} {event}", stamp(*at));
    }
    text
}

fn row(shard: &Shard, statuses: &[WorkerStatus]) -> String {
    let held = statuses.iter().find_map(|status| {
        let lease = status
            .leases
            .iter()
            .find(|(key, _)| key.as_str() == shard.id.as_str());
        lease.map(|(_, lease)| (&status.worker, lease))
    });
    match held {
        None => format!("  {:<10} {:<10} waits for a worker", short(&shard.id), "-"),
        Some((
            worker,
            LeaseStatus {
                state,
                records,
                processed,
                ..
            },
        )) => {
            let at = processed.as_ref().map_or_else(|| "-".to_owned(), tail);
            format!(
                "  {:<10} {:<10} {:<18} {records:>8}  {at}",
                short(&shard.id),
                worker.as_str(),
                state.to_string()
            )
        }
    }
}

/// The last digits of a sequence number, which are those that change.
fn tail(position: &RecordPosition) -> String {
    let digits = position.sequence.as_str();
    format!(
        "…{}",
        digits.get(digits.len().saturating_sub(8)..).unwrap_or(digits)
    )
}

fn shares(fleet: &Fleet) -> String {
    let shares: Vec<_> = fleet
        .shares()
        .into_iter()
        .map(|(worker, leases)| format!("{worker}: {leases}"))
        .collect();
    format!("shards per worker: {}", shares.join(", "))
}

fn stamp(at: Moment) -> String {
    format!("{:>5.1} s", at.since_origin().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use kcl_examples::ledger::Ledger;
    use kinesis_client::MemoryStream;
    use kinesis_client::clock::TokioClock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_table_is_left_above_the_verdict() {
        let clock = Arc::new(TokioClock::new());
        let stream = MemoryStream::new("trucks", 2, clock.clone());
        let fleet = Fleet::new(stream, Arc::new(Ledger::default()), clock);
        fleet.tell("it begins");
        let mut screen = Screen {
            is_terminal: true,
            height: 0,
            told: 0,
        };
        let picture = screen.refresh(&fleet);
        assert!(
            picture.contains("shard 1") && picture.contains("owner"),
            "{picture}"
        );
        fleet.tell("it ends");
        let last = screen.last(&fleet);
        let lines = picture.lines().count();
        let scenario = last.strip_prefix(&format!("\x1b[{lines}A\x1b[J")).unwrap();
        assert!(
            scenario.contains("it begins") && scenario.contains("it ends"),
            "{scenario}"
        );
        assert!(
            !scenario.contains("owner") && !scenario.contains("shards per worker"),
            "{scenario}"
        );
    }
}
