//! Every field that is printed as JSON stands in docs/kcl.md, and every field that stands there is printed.

use std::collections::BTreeSet;
use std::path::Path;

use kcl_core::types::{Record, SequenceNumber, ShardId};
use kcl_operations::estimate::{Load, Prices, estimate};
use kcl_operations::{ScalerSettings, workers_wanted};
use serde::Serialize;
use serde_json::Value;

use crate::commands::records::RecordView;
use crate::commands::{
    doctor, estimate as estimating, export, fleet, held, lag, list, orders, records, redrive, reset,
};
use crate::samples;

/// The names of the fields of an object, or of the first one of a list.
fn fields(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => fields.keys().cloned().collect(),
        Value::Array(values) => values.first().map(fields).unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => BTreeSet::new(),
    }
}

/// The first column of the table below the heading of this object.
fn documented(object: &str) -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kcl.md");
    let page = std::fs::read_to_string(page).unwrap();
    let heading = format!("\n### {object}\n");
    let section = page
        .split(&heading)
        .nth(1)
        .unwrap_or_else(|| panic!("docs/kcl.md has no section {object}"));
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

fn check(object: &str, printed: &impl Serialize) -> Value {
    let printed = serde_json::to_value(printed).unwrap();
    assert_eq!(documented(object), fields(&printed), "{object}");
    printed
}

#[test]
fn every_printed_field_is_documented() {
    let view = samples::fleet();
    let fleet_json = check("fleet", &view);
    check("summary", &fleet_json["summary"]);
    check("shard", &fleet_json["shards"]);
    check("order", &fleet_json["shards"][0]["order_history"]);
    check("worker", &fleet_json["workers"]);
    check("application", &list::sample(view.summary.clone()));
    check("workers", &fleet::workers_document(&view));
    let shards: Vec<_> = view.shards.iter().collect();
    check("why", &fleet::why_documents(&view, &shards));
    let exported = check("export", &export::sample());
    check("checkpoint", &exported["checkpoints"]);
    check(
        "lag",
        &lag::LagDocument::of(&view, workers_wanted(&view, &ScalerSettings::default())),
    );
    check("estimate", &estimate(&Load::new(1.0, 1.0), &Prices::default()));
    let findings = check("doctor", &doctor::sample());
    check("finding", &findings["findings"]);
    let shard = ShardId::new("shardId-000000000000").unwrap();
    check(
        "record",
        &RecordView::new(&shard, &Record::new(SequenceNumber::from(1), "x"), true),
    );
    check("put", &records::put_sample());
    check("answer", &orders::sample());
    check("reset", &reset::sample());
    let held = check("held", &held::document(&view, &[redrive::sample_letter()]));
    check("held record", &held["records"]);
    let redriven = check("redrive", &redrive::sample());
    check("letter", &redriven["letters"]);
}

#[test]
fn every_price_is_documented_with_its_default() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kcl.md");
    let page = std::fs::read_to_string(page).unwrap();
    for (name, price) in estimating::PRICES {
        let row = format!("| `{name}` | {} |", price(&mut Prices::default()));
        assert!(page.contains(&row), "docs/kcl.md lacks {row}");
    }
}
