//! `estimate`: shards and cost, without a call to AWS.

use kcl_operations::estimate::{Estimate, Load, Prices, estimate};

use crate::arguments::EstimateOptions;
use crate::failure::{Exit, Failure};
use crate::output::{Printer, column, print};

/// A price with the name that `--price` has for it.
type NamedPrice = (&'static str, fn(&mut Prices) -> &mut f64);

/// The prices that can be given, by name.
pub(crate) const PRICES: [NamedPrice; 12] = [
    ("shard_hour", |prices| &mut prices.shard_hour),
    ("put_units_million", |prices| &mut prices.put_units_million),
    ("extended_retention_shard_hour", |prices| {
        &mut prices.extended_retention_shard_hour
    }),
    ("long_retention_gb_month", |prices| {
        &mut prices.long_retention_gb_month
    }),
    ("fan_out_shard_hour", |prices| &mut prices.fan_out_shard_hour),
    ("fan_out_gb", |prices| &mut prices.fan_out_gb),
    ("on_demand_stream_hour", |prices| {
        &mut prices.on_demand_stream_hour
    }),
    ("on_demand_in_gb", |prices| &mut prices.on_demand_in_gb),
    ("on_demand_out_gb", |prices| &mut prices.on_demand_out_gb),
    ("on_demand_fan_out_gb", |prices| &mut prices.on_demand_fan_out_gb),
    ("write_units_million", |prices| &mut prices.write_units_million),
    ("read_units_million", |prices| &mut prices.read_units_million),
];

/// `kcl estimate`.
pub(crate) fn run(options: &EstimateOptions, printer: Printer) -> Result<Exit, Failure> {
    let mut prices = Prices::default();
    for (name, dollars) in &options.prices {
        let Some((_, price)) = PRICES.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = PRICES.iter().map(|(name, _)| *name).collect();
            return Err(Failure::usage(format!(
                "there is no price {name}; there are {}",
                known.join(", ")
            )));
        };
        *price(&mut prices) = *dollars;
    }
    let mut load = Load::new(options.records_per_second, options.record_size);
    load.polling_consumers = options.consumers;
    load.fan_out_consumers = options.fan_out_consumers;
    load.retention_hours = options.retention;
    load.workers = options.workers;
    load.failover_seconds = options.failover_time;
    let answer = estimate(&load, &prices);
    print(&text(&answer, printer))?;
    Ok(Exit::Fine)
}

/// One line of the table.
#[derive(Debug, serde::Serialize)]
struct Line {
    item: &'static str,
    per_month: f64,
}

fn text(answer: &Estimate, printer: Printer) -> String {
    let line = |item, per_month| Line { item, per_month };
    let lines = [
        line("provisioned stream", answer.provisioned_dollars),
        line("  shards", answer.shards_dollars),
        line("  PUT payload units", answer.puts_dollars),
        line("  retention beyond a day", answer.retention_dollars),
        line("  fan-out consumers", answer.fan_out_dollars),
        line("or the stream on demand", answer.on_demand_dollars),
        line("coordination of one application", answer.coordination_dollars),
        line("  renewals and checkpoints", answer.renewals_dollars),
        line("  scans, queries, lock, worker rows", answer.fleet_dollars),
    ];
    let columns = [
        column("ITEM", |line: &Line| line.item.to_owned()),
        column("$ A MONTH", |line: &Line| format!("{:.2}", line.per_month)).number(),
    ];
    let shards = if answer.shards == 1 { "shard" } else { "shards" };
    let heading = format!(
        "{} {shards}, limited by {}; list prices of us-east-1 unless --price says otherwise, 730 hours a month",
        answer.shards, answer.limited_by
    );
    printer.rows(&heading, &lines, &columns, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_price_can_be_given_by_its_name() {
        let mut prices = Prices::default();
        for (index, (_, price)) in PRICES.iter().enumerate() {
            *price(&mut prices) = index as f64;
        }
        let debug = format!("{prices:?}");
        for (index, (name, _)) in PRICES.iter().enumerate() {
            assert!(debug.contains(&format!("{name}: {index}.0")), "{name}: {debug}");
        }
        assert_eq!(debug.matches(": ").count(), PRICES.len());
    }
}
