//! An examination: facts that were collected about an application, and findings that say what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::lease_store::StoreErrorKind;
use kcl_core::source::{RecordPlacement, SourceErrorKind, StreamDescription};
use kcl_core::types::StreamIdentity;
use serde::Serialize;

use crate::fleet::{FleetView, is_open};
use crate::text::{count_text, duration_text, listed};

/// How many fan-out consumers a stream may have ("Quotas and limits" of the Kinesis Data Streams guide).
pub const MAX_CONSUMERS: u32 = 20;

/// From which difference on a clock is worth correcting. The service's time comes in whole seconds.
const CLOCK_WARNING: Duration = Duration::from_secs(5);

/// From which difference on the service refuses signatures: "within five minutes" of AWS Signature Version 4, less a margin.
const CLOCK_PROBLEM: Duration = Duration::from_secs(240);

/// How many names a finding lists.
const MAX_NAMES: usize = 5;

/// The facts about an application. A fact that could not be had is absent, and no finding follows from it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Facts {
    /// The region of the client.
    pub region: Option<String>,
    /// The lease table.
    pub table: Option<TableFact>,
    /// The view of the fleet, where the table could be read.
    pub fleet: Option<FleetView>,
    /// The streams that the rows name, or that were asked for.
    pub streams: Vec<StreamFact>,
    /// How many more streams the rows name, which were not looked at.
    pub streams_left_out: usize,
    /// The rights that were tried.
    pub rights: Vec<Right>,
    /// Whether the application needs all records of a key in one shard, or in order.
    pub needs_keys: bool,
    /// The service's time less this host's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
}

/// The lease table, as far as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableFact {
    /// Its name.
    pub table: String,
    /// Why it cannot be read, if it cannot.
    pub problem: Option<Problem>,
    /// Other regions in which a table of the name is.
    pub elsewhere: Vec<String>,
}

impl TableFact {
    /// A table that can be read, or that has this problem.
    pub fn new(table: impl Into<String>, problem: Option<Problem>) -> Self {
        Self {
            table: table.into(),
            problem,
            elsewhere: Vec::new(),
        }
    }
}

/// Why something cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The message of the part that failed, which holds no credential.
    pub message: String,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// A kind of problem, as far as the advice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// It is not there.
    Missing,
    /// It is there and is something else: a table of another schema, or of another application.
    Foreign,
    /// A right is missing, or the credentials are wrong.
    Denied,
    /// The service does not answer, or throttles.
    Unreachable,
    /// The request makes no sense, as with an ARN of another region.
    Invalid,
}

impl From<StoreErrorKind> for ProblemKind {
    fn from(kind: StoreErrorKind) -> Self {
        match kind {
            StoreErrorKind::Missing => Self::Missing,
            StoreErrorKind::Foreign | StoreErrorKind::Data => Self::Foreign,
            StoreErrorKind::Denied => Self::Denied,
            StoreErrorKind::Invalid => Self::Invalid,
            StoreErrorKind::Throttled | StoreErrorKind::Unavailable | _ => Self::Unreachable,
        }
    }
}

impl From<SourceErrorKind> for ProblemKind {
    fn from(kind: SourceErrorKind) -> Self {
        match kind {
            SourceErrorKind::NotFound => Self::Missing,
            SourceErrorKind::Denied => Self::Denied,
            SourceErrorKind::Invalid => Self::Invalid,
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable | _ => Self::Unreachable,
        }
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamFact {
    /// Its name, or ARN, as it was asked for.
    pub stream: String,
    /// The stream that the lease rows were made for, where they say so.
    pub leased: Option<StreamIdentity>,
    /// Why it cannot be described, if it cannot.
    pub problem: Option<Problem>,
    /// Which stream it is.
    pub identity: Option<StreamIdentity>,
    /// Its settings.
    pub description: StreamDescription,
    /// The ids of its open shards, where they were listed.
    pub open_shards: Option<BTreeSet<String>>,
}

impl StreamFact {
    /// A stream of which nothing is known yet.
    pub fn new(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            leased: None,
            problem: None,
            identity: None,
            description: StreamDescription::default(),
            open_shards: None,
        }
    }
}

/// A right that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Right {
    /// The action as IAM policies write it.
    pub action: String,
    /// The resource that it was tried on.
    pub resource: String,
    /// Whether it is granted; `None` where the trial gave no answer.
    pub is_granted: Option<bool>,
}

impl Right {
    /// A right that was tried on this resource.
    pub fn new(action: impl Into<String>, resource: impl Into<String>, is_granted: Option<bool>) -> Self {
        Self {
            action: action.into(),
            resource: resource.into(),
            is_granted,
        }
    }
}

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
