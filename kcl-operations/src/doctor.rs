//! An examination: facts that were collected about an application, and findings that say what to do.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::source::RecordPlacement;
use serde::Serialize;

pub use facts::{Facts, Problem, ProblemKind, Right, StreamFact, TableFact};

use crate::fleet::is_open;
use crate::text::{count_text, duration_text, listed};
use crate::view::FleetView;

/// How many fan-out consumers a stream may have ("Quotas and limits" of the Kinesis Data Streams guide).
pub const MAX_CONSUMERS: u32 = 20;

/// From which difference on a clock is worth correcting. The service's time comes in whole seconds.
const CLOCK_WARNING: Duration = Duration::from_secs(5);

/// From which difference on the service refuses signatures: "within five minutes" of AWS Signature Version 4, less a margin.
const CLOCK_PROBLEM: Duration = Duration::from_secs(240);

/// How many names a finding lists.
const MAX_NAMES: usize = 5;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// The application does not work, or loses records.
    Problem,
    /// It may come to that.
    Warning,
    /// A fact to know.
    Note,
}

impl Severity {
    /// The word as it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// Its name, for scripts: it stays the same.
    pub code: &'static str,
    /// The table, stream, shard or worker that it is about.
    pub subject: String,
    /// The finding.
    pub finding: String,
    /// The cure.
    pub advice: String,
}

/// Examines the facts. The gravest findings come first; an application that is well has none.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    clock(facts, &mut findings);
    table(facts, &mut findings);
    rights(facts, &mut findings);
    for stream in &facts.streams {
        one_stream(stream, facts, &mut findings);
    }
    if facts.streams_left_out > 0 {
        let mut draft = Draft {
            findings: &mut findings,
            subject: "the streams",
        };
        draft.add(
            Severity::Note,
            "streams-left-out",
            format!(
                "{} were examined, and {} more that the rows name were not",
                count_text(facts.streams.len(), "stream"),
                facts.streams_left_out
            ),
            "examine others by naming them with --stream",
        );
    }
    if let Some(fleet) = &facts.fleet {
        of_fleet(fleet, &mut findings);
    }
    findings.sort_by(|one, other| {
        (one.severity, one.code, &one.subject).cmp(&(other.severity, other.code, &other.subject))
    });
    findings
}

struct Draft<'a> {
    findings: &'a mut Vec<Finding>,
    subject: &'a str,
}

impl Draft<'_> {
    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            code,
            subject: self.subject.to_owned(),
            finding: finding.into(),
            advice: advice.into(),
        });
    }
}

fn clock(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(offset) = facts.clock_offset_ms else {
        return;
    };
    let off = Duration::from_millis(offset.unsigned_abs());
    if off < CLOCK_WARNING {
        return;
    }
    let side = if offset > 0 { "behind" } else { "ahead of" };
    let severity = if off >= CLOCK_PROBLEM {
        Severity::Problem
    } else {
        Severity::Warning
    };
    let mut draft = Draft {
        findings,
        subject: "this host",
    };
    draft.add(
        severity,
        "clock-off",
        format!("its clock is {} {side} the service's", duration_text(off)),
        "correct the clock (NTP): AWS refuses signatures that are 5 minutes off, and ages of rows are shown by this clock",
    );
}

fn table(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(table) = &facts.table else { return };
    let Some(problem) = &table.problem else { return };
    let region = facts.region.as_deref().unwrap_or("no region");
    let mut draft = Draft {
        findings,
        subject: &table.table,
    };
    let message = problem.message.as_str();
    match problem.kind {
        ProblemKind::Missing if !table.elsewhere.is_empty() => draft.add(
            Severity::Problem,
            "wrong-region",
            format!("there is no such table in {region}, and there is one in {}", listed(&table.elsewhere)),
            format!("use --region {}", table.elsewhere[0]),
        ),
        ProblemKind::Missing => draft.add(
            Severity::Problem,
            "table-missing",
            format!("there is no such table in {region}"),
            "check the region, the account of the credentials, and --table where the table is not named as the application; a new application \
             has its table once a worker has started",
        ),
        ProblemKind::Foreign => draft.add(
            Severity::Problem,
            "table-foreign",
            message,
            "name the lease table of this application with --table",
        ),
        ProblemKind::Denied => draft.add(Severity::Problem, "no-access", message, "grant the rights that docs/iam.md lists"),
        ProblemKind::Invalid => draft.add(Severity::Problem, "invalid-name", message, "correct the name, or the region"),
        ProblemKind::Unreachable => draft.add(
            Severity::Problem,
            "unreachable",
            message,
            "check the endpoint, the network and the region",
        ),
    }
}

fn rights(facts: &Facts, findings: &mut Vec<Finding>) {
    for right in facts
        .rights
        .iter()
        .filter(|right| right.is_granted == Some(false))
    {
        let mut draft = Draft {
            findings,
            subject: &right.resource,
        };
        draft.add(
            Severity::Problem,
            "missing-right",
            format!("{} is denied", right.action),
            format!("grant {} on {}", right.action, right.resource),
        );
    }
}

fn one_stream(stream: &StreamFact, facts: &Facts, findings: &mut Vec<Finding>) {
    let mut draft = Draft {
        findings,
        subject: &stream.stream,
    };
    let leased_region = stream
        .leased
        .as_ref()
        .and_then(|identity| region_of(&identity.arn));
    let named_region = region_of(&stream.stream);
    let elsewhere = [leased_region, named_region].into_iter().flatten();
    if let (Some(region), Some(other)) = (
        &facts.region,
        elsewhere
            .clone()
            .find(|other| Some(*other) != facts.region.as_deref()),
    ) {
        draft.add(
            Severity::Problem,
            "wrong-region",
            format!("the stream is in {other}, and {region} was asked"),
            format!("use --region {other}"),
        );
        return;
    }
    if let Some(problem) = &stream.problem {
        stream_problem(problem, facts, &mut draft);
        return;
    }
    same_stream(stream, &mut draft);
    settings(stream, facts, &mut draft);
    if let Some(fleet) = &facts.fleet {
        retention(stream, fleet, &mut draft);
        coverage(stream, fleet, &mut draft);
    }
}

/// The region of an ARN.
fn region_of(arn: &str) -> Option<&str> {
    let mut parts = arn.split(':');
    let is_arn = parts.next() == Some("arn");
    parts.nth(2).filter(|region| is_arn && !region.is_empty())
}

fn stream_problem(problem: &Problem, facts: &Facts, draft: &mut Draft<'_>) {
    let message = problem.message.as_str();
    let region = facts.region.as_deref().unwrap_or("no region");
    match problem.kind {
        ProblemKind::Missing => draft.add(
            Severity::Problem,
            "stream-missing",
            format!("there is no such stream in {region}"),
            "create it, or correct the name, the region or the account of the credentials",
        ),
        ProblemKind::Denied => draft.add(
            Severity::Problem,
            "missing-right",
            message,
            "grant kinesis:DescribeStreamSummary and the rights that docs/iam.md lists",
        ),
        ProblemKind::Foreign | ProblemKind::Invalid => {
            draft.add(
                Severity::Problem,
                "invalid-name",
                message,
                "correct the name or ARN of the stream",
            );
        }
        ProblemKind::Unreachable => draft.add(
            Severity::Problem,
            "unreachable",
            message,
            "check the endpoint, the network and the region",
        ),
    }
}

fn same_stream(stream: &StreamFact, draft: &mut Draft<'_>) {
    let (Some(leased), Some(found)) = (&stream.leased, &stream.identity) else {
        return;
    };
    if !leased.is_same_stream(found) {
        draft.add(
            Severity::Problem,
            "stream-recreated",
            format!(
                "the leases are those of {} created at {}, and the stream of this name is {} created at {}",
                leased.arn, leased.created, found.arn, found.created
            ),
            "checkpoints of the former stream mean nothing in this one: give the application another name, or delete its lease table",
        );
    }
}

fn settings(stream: &StreamFact, facts: &Facts, draft: &mut Draft<'_>) {
    let description = &stream.description;
    if let Some(consumers) = description
        .consumers
        .filter(|consumers| *consumers >= MAX_CONSUMERS)
    {
        draft.add(
            Severity::Warning,
            "consumers-used-up",
            format!("{consumers} fan-out consumers are registered, and {MAX_CONSUMERS} are allowed"),
            "an application whose consumer is registered goes on; for another one deregister a consumer, or poll",
        );
    }
    if description.placement == Some(RecordPlacement::ByService) {
        let finding =
            "its records are distributed by the service (AUTO): records of one key are in any shard";
        if facts.needs_keys {
            draft.add(
                Severity::Problem,
                "auto-keys",
                finding,
                "an application that needs order or state by key cannot have it here: set the stream's record distribution to \
                 USER_PARTITION_KEY, or do without keys",
            );
        } else {
            draft.add(
                Severity::Note,
                "auto-keys",
                finding,
                "run this with --needs-keys if the application rests on keys",
            );
        }
    }
}

fn retention(stream: &StreamFact, fleet: &FleetView, draft: &mut Draft<'_>) {
    let Some(retention) = stream.description.retention else {
        return;
    };
    let lags = fleet
        .shards
        .iter()
        .filter(|shard| is_open(shard) && is_of(shard.stream.as_deref(), stream));
    let age = |shard: &crate::ShardView| shard.lag_ms.max(shard.freshness_ms);
    let worst = lags
        .filter_map(|shard| age(shard).map(|age| (age, shard)))
        .max_by_key(|(age, _)| *age);
    let Some((lag, shard)) = worst else { return };
    let lag = Duration::from_millis(lag);
    let text = format!(
        "{} is {} behind, and records are kept for {}",
        shard.shard,
        duration_text(lag),
        duration_text(retention)
    );
    let advice = "lengthen the retention (IncreaseStreamRetentionPeriod) before anything else, then look at the shard with `kcl why`";
    if lag >= retention {
        draft.add(
            Severity::Problem,
            "retention-shorter-than-lag",
            text + ": records are lost",
            advice,
        );
    } else if lag * 2 >= retention {
        draft.add(Severity::Warning, "retention-shorter-than-lag", text, advice);
    }
}

/// Returns `true` if a row that names this stream, or none, is one of the stream's.
fn is_of(named: Option<&str>, stream: &StreamFact) -> bool {
    let Some(named) = named else { return true };
    let name = stream
        .identity
        .as_ref()
        .map_or(stream.stream.as_str(), |identity| identity.name.as_str());
    named == name || named.split(':').nth(1) == Some(name)
}

fn coverage(stream: &StreamFact, fleet: &FleetView, draft: &mut Draft<'_>) {
    let Some(open) = &stream.open_shards else { return };
    // Streams have shards of the same ids.
    let its = || {
        fleet
            .shards
            .iter()
            .filter(|shard| is_of(shard.stream.as_deref(), stream))
    };
    let leased: BTreeSet<&str> = its().map(|shard| shard.shard.as_str()).collect();
    let missing: Vec<&String> = open
        .iter()
        .filter(|shard| !leased.contains(shard.as_str()))
        .collect();
    // A child has its lease once its parents are finished.
    let pending = its().any(|shard| is_open(shard) && !open.contains(&shard.shard));
    if missing.is_empty() || pending || leased.is_empty() {
        return;
    }
    draft.add(
        Severity::Warning,
        "shards-without-lease",
        format!(
            "{} without a lease: {}",
            count_text(missing.len(), "open shard"),
            some_of(&missing)
        ),
        "the leader makes leases within its shard sync; if this stays, see its log",
    );
}

fn of_fleet(fleet: &FleetView, findings: &mut Vec<Finding>) {
    let mut draft = Draft {
        findings,
        subject: &fleet.application,
    };
    let summary = &fleet.summary;
    if summary.java_workers > 0 {
        let names: Vec<&String> = fleet
            .workers
            .iter()
            .filter(|worker| worker.is_java)
            .map(|worker| &worker.worker)
            .collect();
        draft.add(
            Severity::Warning,
            "java-workers",
            format!("workers of the Java KCL are in the table: {}", some_of(&names)),
            "workers of this library and of Java cannot share an application: stop one kind; `kcl` shows of Java's what their rows say",
        );
    }
    let mut versions: BTreeMap<&str, u32> = BTreeMap::new();
    for version in fleet
        .workers
        .iter()
        .filter_map(|worker| worker.version.as_deref())
    {
        *versions.entry(version).or_default() += 1;
    }
    if versions.len() > 1 {
        let counts = versions
            .iter()
            .map(|(version, count)| format!("{count} of {version}"));
        draft.add(
            Severity::Note,
            "versions-differ",
            format!("workers run different versions: {}", listed(counts)),
            "that is fine during a deploy; finish it",
        );
    }
    let present = summary.live_workers.saturating_add(summary.unknown_workers);
    if present == 0 && summary.open_leases > 0 {
        draft.add(
            Severity::Problem,
            "no-workers",
            format!(
                "no worker is live, and {} leases are not ended",
                summary.open_leases
            ),
            "start workers; if they run, compare their clocks with this host's",
        );
    } else if summary.leader.is_none() && summary.live_workers > 0 {
        draft.add(
            Severity::Warning,
            "no-leader",
            "no worker holds the leader's lock",
            "one takes it within seconds; if this stays, see the logs for refused writes",
        );
    }
    let stuck: Vec<String> = fleet
        .shards
        .iter()
        .filter(|shard| shard.state.is_stuck())
        .map(|shard| format!("{} {}", shard.shard, shard.state))
        .collect();
    if !stuck.is_empty() && present > 0 {
        draft.add(
            Severity::Warning,
            "shards-stuck",
            format!(
                "{} not going on: {}",
                count_text(stuck.len(), "shard"),
                some_of(&stuck)
            ),
            format!("run `kcl why {} SHARD`", fleet.application),
        );
    }
    if !fleet.unreadable_rows.is_empty() {
        draft.add(
            Severity::Warning,
            "rows-unreadable",
            format!(
                "{} that cannot be read: {}",
                count_text(fleet.unreadable_rows.len(), "row"),
                some_of(&fleet.unreadable_rows)
            ),
            "repair or remove them; workers leave them alone",
        );
    }
}

/// The first names, and how many more there are.
fn some_of<T: AsRef<str>>(names: &[T]) -> String {
    let shown = listed(names.iter().take(MAX_NAMES).map(AsRef::as_ref));
    match names.len().checked_sub(MAX_NAMES) {
        Some(more) if more > 0 => format!("{shown}, and {more} more"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests;
