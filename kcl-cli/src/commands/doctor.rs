//! `doctor`: collects facts, and prints the findings about them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use kcl_aws::CommonError;
use kcl_core::clock::ClockExt as _;
use kcl_core::lease_store::{LeaseStore as _, StoreErrorKind};
use kcl_core::source::{ShardFilter, StreamSource as _};
use kcl_core::types::StreamIdentity;
use kcl_kinesis::aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};
use kcl_lease_dynamo::aws_sdk_dynamodb::config::http::HttpResponse;
use kcl_lease_dynamo::aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use kcl_operations::doctor::{Facts, Finding, Problem, Right, Severity, StreamFact, TableFact, examine};
use kcl_operations::{FleetFacts, FleetView, count_text};
use serde::Serialize;

use super::records::shards;
use super::watch::repeat;
use crate::arguments::{CommonOptions, DoctorOptions, Format};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::{stream_of, table_of};
use crate::output::{Printer, Style, csv, json, painted, printable};

/// The regions that every account has, where a missing table is looked for.
const REGIONS: [&str; 17] = [
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];

/// How many streams that the rows name are examined. Each takes some calls, and ListShards ten a second.
const MOST_STREAMS: usize = 50;

/// The answer of Kinesis to a dry run that would have succeeded.
const DRY_RUN_SUCCEEDED: &str = "DryRunOperationException";

/// The document of `kcl doctor`.
#[derive(Debug, Serialize)]
pub(crate) struct DoctorDocument {
    application: String,
    time_ms: i64,
    findings: Vec<Finding>,
}

/// `kcl doctor`.
pub(crate) async fn doctor(
    connection: &Connection,
    common: &CommonOptions,
    options: &DoctorOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    repeat(connection, common.watch, async || {
        let facts = collect(connection, common.table.as_deref(), options).await;
        let document = DoctorDocument {
            application: options.application.to_string(),
            time_ms: connection.now().as_millis(),
            findings: examine(&facts),
        };
        let is_found = document
            .findings
            .iter()
            .any(|finding| finding.severity != Severity::Note);
        Ok((text(&document, &facts, printer), Exit::found(is_found)))
    })
    .await
}

fn text(document: &DoctorDocument, facts: &Facts, printer: Printer) -> String {
    match printer.format {
        Format::Json => return json(document, printer.is_watching),
        Format::Csv => return csv(&document.findings),
        Format::Table | Format::Wide => {}
    }
    let tried = facts
        .rights
        .iter()
        .filter(|right| right.is_granted.is_some())
        .count();
    let mut text = format!(
        "Examined {}: its table, {}, {}.\n",
        document.application,
        count_text(facts.streams.len(), "stream"),
        count_text(tried, "right")
    );
    if document.findings.is_empty() {
        text += "Nothing is wrong.\n";
    }
    for finding in &document.findings {
        let style = match finding.severity {
            Severity::Problem => Style::Bad,
            Severity::Warning => Style::Warn,
            Severity::Note | _ => Style::Dim,
        };
        let word = painted(finding.severity.word(), style, printer.colours);
        text += &format!(
            "\n{word} {}: {}\n  {}\n  → {}\n",
            finding.code,
            printable(&finding.subject),
            printable(&finding.finding),
            printable(&finding.advice)
        );
    }
    text
}

/// Collects what can be had. A call that fails leaves a fact that says so, and the others go on.
async fn collect(connection: &Connection, table: Option<&str>, options: &DoctorOptions) -> Facts {
    let mut facts = Facts::default();
    facts.region = connection.region().map(str::to_owned);
    facts.needs_keys = options.needs_keys;
    let table = table_of(table, &options.application);
    let store = connection.store(table);
    let attached = store.attach(&options.application).await;
    let scan = match attached {
        Ok(_) => store.scan().await,
        Err(error) => Err(error),
    };
    let mut streams: BTreeMap<String, Option<StreamIdentity>> = BTreeMap::new();
    streams.extend(options.streams.iter().map(|stream| (stream.clone(), None)));
    match scan {
        Ok(scan) => {
            facts.table = Some(TableFact::new(table, None));
            for lease in &scan.leases {
                if let Some(stream) = stream_of(lease, None) {
                    streams.entry(stream).or_insert_with(|| lease.identity.clone());
                }
            }
            let of_scan = FleetFacts::new(&scan);
            let view = FleetView::of(options.application.as_str(), &of_scan, connection.now());
            facts.fleet = Some(view);
            facts.rights.extend(owner_index_right(connection, table).await);
        }
        Err(error) => {
            let problem = Problem::new(error.kind().into(), error.to_string());
            let mut fact = TableFact::new(table, Some(problem));
            if error.kind() == StoreErrorKind::Missing && connection.is_aws {
                fact.elsewhere = elsewhere(connection, table).await;
            }
            facts.table = Some(fact);
        }
    }
    // Those that were asked for are examined, and of those that the rows name as many as there is time for.
    let (asked, named): (Vec<_>, Vec<_>) = streams
        .into_iter()
        .partition(|(stream, _)| options.streams.contains(stream));
    facts.streams_left_out = named.len().saturating_sub(MOST_STREAMS);
    for (stream, leased) in asked.into_iter().chain(named.into_iter().take(MOST_STREAMS)) {
        let fact = one_stream(connection, &stream, leased, &mut facts).await;
        facts.streams.push(fact);
    }
    if let Some(consumer) = &options.consumer {
        facts
            .rights
            .extend(subscription_right(connection, consumer, &facts).await);
    }
    facts
}

/// Other regions with a table of this name.
async fn elsewhere(connection: &Connection, table: &str) -> Vec<String> {
    let others = REGIONS
        .into_iter()
        .filter(|region| connection.region() != Some(region));
    let looks = others.map(|region| async move {
        let call = connection
            .dynamo_in(region)
            .describe_table()
            .table_name(table)
            .send();
        let limit = connection.timeout.min(Duration::from_secs(3));
        let answer = connection.clock.timeout(limit, Box::pin(call)).await;
        matches!(answer, Ok(Ok(_))).then(|| region.to_owned())
    });
    let found: Vec<Option<String>> = futures_util::stream::iter(looks)
        .buffered(REGIONS.len())
        .collect()
        .await;
    found.into_iter().flatten().collect()
}

/// Describes a stream, lists its shards, and tries the rights to read it.
async fn one_stream(
    connection: &Connection,
    stream: &str,
    leased: Option<StreamIdentity>,
    facts: &mut Facts,
) -> StreamFact {
    let source = connection.stream(stream);
    let mut fact = StreamFact::new(stream);
    fact.leased = leased;
    let failed = |error: kcl_core::source::SourceError| Problem::new(error.kind().into(), error.to_string());
    match source.identity().await {
        Ok(identity) => fact.identity = Some(identity),
        Err(error) => {
            fact.problem = Some(failed(error));
            return fact;
        }
    }
    fact.description = source.description();
    let before = connection.now();
    match source.shards(ShardFilter::Open, None).await {
        Ok(page) => {
            let middle = (before.as_millis() + connection.now().as_millis()) / 2;
            // The service's time is cut to whole seconds.
            facts.clock_offset_ms = Some(page.service_time.as_millis() + 500 - middle);
        }
        Err(error) => fact.problem = Some(failed(error)),
    }
    if let Ok(listed) = shards(&source, ShardFilter::Open).await {
        let first = listed.first().map(|shard| shard.id.to_string());
        fact.open_shards = Some(listed.iter().map(|shard| shard.id.to_string()).collect());
        if let Some(shard) = first {
            facts
                .rights
                .extend(reading_rights(connection, &fact, &shard).await);
        }
    }
    fact
}

/// Tries to read, as dry runs.
async fn reading_rights(connection: &Connection, stream: &StreamFact, shard: &str) -> Vec<Right> {
    let Some(identity) = &stream.identity else {
        return Vec::new();
    };
    let client = connection.kinesis();
    let iterator = client
        .get_shard_iterator()
        .stream_arn(&identity.arn)
        .shard_id(shard)
        .shard_iterator_type(ShardIteratorType::Latest);
    let action = "kinesis:GetShardIterator";
    let dry_run = connection
        .attempt(action, iterator.clone().dry_run(true).send())
        .await;
    let mut rights = vec![Right::new(action, &identity.arn, granted(dry_run))];
    let action = "kinesis:GetRecords";
    if let Ok(Ok(answer)) = connection.attempt(action, iterator.send()).await {
        let call = client.get_records().stream_arn(&identity.arn).limit(1);
        let call = call.set_shard_iterator(answer.shard_iterator).dry_run(true);
        let dry_run = connection.attempt(action, call.send()).await;
        rights.push(Right::new(action, &identity.arn, granted(dry_run)));
    }
    rights
}

/// Tries to subscribe, as a dry run.
async fn subscription_right(connection: &Connection, consumer: &str, facts: &Facts) -> Option<Right> {
    let shards = facts
        .streams
        .iter()
        .filter_map(|stream| stream.open_shards.as_ref());
    let shard = shards.flatten().next()?;
    let latest = StartingPosition::builder()
        .r#type(ShardIteratorType::Latest)
        .build()
        .ok()?;
    let call = connection
        .kinesis()
        .subscribe_to_shard()
        .consumer_arn(consumer)
        .shard_id(shard)
        .starting_position(latest)
        .dry_run(true);
    let action = "kinesis:SubscribeToShard";
    let dry_run = connection.attempt(action, call.send()).await;
    Some(Right::new(action, consumer, granted(dry_run)))
}

/// Asks the owner index for nothing: a harmless read, which is denied where the right is missing.
async fn owner_index_right(connection: &Connection, table: &str) -> Option<Right> {
    use kcl_lease_dynamo::aws_sdk_dynamodb::types::AttributeValue;
    const INDEX: &str = "LeaseOwnerToLeaseKeyIndex";
    let action = "dynamodb:Query";
    let call = connection
        .dynamo()
        .query()
        .table_name(table)
        .index_name(INDEX)
        .limit(1)
        .key_condition_expression("leaseOwner = :owner")
        .expression_attribute_values(":owner", AttributeValue::S("-".to_owned()));
    let answer = connection.attempt(action, call.send()).await;
    Some(Right::new(
        action,
        format!("{table}/index/{INDEX}"),
        granted(answer),
    ))
}

/// Whether the call would have been allowed; `None` where the answer is about something else.
fn granted<T, E>(answer: Result<Result<T, SdkError<E, HttpResponse>>, Failure>) -> Option<bool>
where
    E: ProvideErrorMetadata,
{
    let error = match answer.ok()? {
        Ok(_) => return Some(true),
        Err(error) => error,
    };
    let SdkError::ServiceError(context) = &error else {
        return None;
    };
    match context.err().code() {
        Some(DRY_RUN_SUCCEEDED) => Some(true),
        code if CommonError::of(code) == Some(CommonError::NotGranted) => Some(false),
        _ => None,
    }
}

/// A document with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample() -> DoctorDocument {
    let mut facts = Facts::default();
    facts.table = Some(TableFact::new(
        "app",
        Some(Problem::new(kcl_operations::doctor::ProblemKind::Missing, "gone")),
    ));
    DoctorDocument {
        application: "app".to_owned(),
        time_ms: 0,
        findings: examine(&facts),
    }
}
