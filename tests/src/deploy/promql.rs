//! The names in a query of Prometheus, as far as a check against the list of metrics needs them.

use std::collections::BTreeSet;

use kcl_core::metrics::{ALL, Metric, MetricKind};

/// The functions, aggregations and operators that our queries may use.
const WORDS: &[&str] = &[
    "absent",
    "and",
    "avg",
    "bool",
    "by",
    "count",
    "histogram_quantile",
    "increase",
    "max",
    "max_over_time",
    "min",
    "offset",
    "or",
    "rate",
    "sum",
    "topk",
    "unless",
];

/// The functions of counters.
const OF_COUNTERS: &[&str] = &["increase", "rate"];

/// Labels that every series has: ours, and those that Prometheus adds.
const COMMON: &[&str] = &["worker", "instance", "job"];

/// A part of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A text, a number, or what stands in brackets.
    Other,
    Sign(char),
}

/// Checks that a query names only metrics that exist, with labels that they have, and takes rates of counters alone.
///
/// Returns the metrics that it names.
///
/// # Errors
///
/// The first name that is wrong, or why the query cannot be read.
pub fn check(query: &str) -> Result<BTreeSet<&'static str>, String> {
    let tokens = tokens(query)?;
    let (mut metrics, mut grouped) = (Vec::new(), BTreeSet::new());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let Token::Word(word) = token else {
            at += 1;
            continue;
        };
        if word == "by" {
            let (labels, end) = list(&tokens, at + 1)?;
            grouped.extend(labels);
            at = end;
        } else if WORDS.contains(&word.as_str()) {
            at += 1;
        } else {
            let (metric, is_bucket) = find(word)?;
            let before = at.checked_sub(2).map(|before| &tokens[before..at]);
            let is_rate = matches!(before, Some([Token::Word(function), Token::Sign('(')]) if OF_COUNTERS.contains(&function.as_str()));
            let is_allowed = match metric.kind {
                MetricKind::Gauge => !is_rate,
                MetricKind::Counter => is_rate || is_new(&tokens, at),
                MetricKind::Histogram | _ => is_rate,
            };
            if !is_allowed {
                return Err(format!("{word} is no metric for that function"));
            }
            metrics.push((metric, is_bucket));
            let (labels, end) = matchers(&tokens, at + 1)?;
            if let Some(label) = labels.iter().find(|label| !has(metric, label)) {
                return Err(format!("{word} has no label {label}"));
            }
            at = end;
        }
    }
    if metrics.is_empty() {
        return Err("no metric".to_owned());
    }
    for label in grouped {
        let is_there =
            |&(metric, is_bucket): &(&Metric, bool)| has(metric, &label) || (is_bucket && label == "le");
        if !metrics.iter().any(is_there) {
            return Err(format!("no metric has the label {label}"));
        }
    }
    Ok(metrics.into_iter().map(|(metric, _)| metric.name).collect())
}

/// Returns `true` for a counter at this place that is looked at as such, in `M > 0 unless M offset 1h`: has it appeared since?
fn is_new(tokens: &[Token], at: usize) -> bool {
    let is_word = |place: Option<usize>, word: &str| {
        place.and_then(|place| tokens.get(place)) == Some(&Token::Word(word.to_owned()))
    };
    let is_now = tokens.get(at + 1) == Some(&Token::Sign('>')) && is_word(Some(at + 3), "unless");
    let is_before = is_word(at.checked_sub(1), "unless") && is_word(Some(at + 1), "offset");
    let is_same = match is_now {
        true => tokens.get(at) == tokens.get(at + 4),
        false => at >= 4 && tokens.get(at) == tokens.get(at - 4),
    };
    (is_now || is_before) && is_same
}

fn has(metric: &Metric, label: &str) -> bool {
    metric.labels.contains(&label) || COMMON.contains(&label)
}

/// The metric of this name, and whether the buckets of a histogram are meant.
fn find(name: &str) -> Result<(&'static Metric, bool), String> {
    let named = |name: &str| ALL.iter().find(|metric| metric.name == name);
    if let Some(metric) = named(name) {
        if metric.kind == MetricKind::Histogram {
            return Err(format!(
                "{name} is a histogram: it has buckets, a sum and a count"
            ));
        }
        return Ok((metric, false));
    }
    for suffix in ["_bucket", "_sum", "_count"] {
        let metric = name.strip_suffix(suffix).and_then(named);
        if let Some(metric) = metric.filter(|metric| metric.kind == MetricKind::Histogram) {
            return Ok((metric, suffix == "_bucket"));
        }
    }
    Err(format!("there is no metric {name}"))
}

/// The labels in parentheses, and the place behind them.
fn list(tokens: &[Token], mut at: usize) -> Result<(Vec<String>, usize), String> {
    if tokens.get(at) != Some(&Token::Sign('(')) {
        return Err("`by` without labels".to_owned());
    }
    let mut labels = Vec::new();
    loop {
        at += 1;
        match tokens.get(at) {
            Some(Token::Word(label)) => labels.push(label.clone()),
            Some(Token::Sign(',')) => {}
            Some(Token::Sign(')')) => return Ok((labels, at + 1)),
            _ => return Err("a list of labels without an end".to_owned()),
        }
    }
}

/// The labels in braces, if there are any here, and the place behind them.
fn matchers(tokens: &[Token], mut at: usize) -> Result<(Vec<String>, usize), String> {
    let mut labels = Vec::new();
    if tokens.get(at) != Some(&Token::Sign('{')) {
        return Ok((labels, at));
    }
    loop {
        at += 1;
        match tokens.get(at) {
            Some(Token::Word(label)) => labels.push(label.clone()),
            Some(Token::Sign('}')) => return Ok((labels, at + 1)),
            Some(Token::Sign(',' | '=' | '~' | '!') | Token::Other) => {}
            _ => return Err("braces without an end".to_owned()),
        }
    }
}

fn tokens(query: &str) -> Result<Vec<Token>, String> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut tokens = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => rest[1..].find('"').ok_or("a text without an end")? + 2,
            '[' => rest.find(']').ok_or("a bracket without an end")? + 1,
            _ if is_word(first) => rest
                .find(|letter| !is_word(letter) && letter != '.')
                .unwrap_or(rest.len()),
            _ if "(){},=~!<>+-*/%^".contains(first) => 1,
            _ => return Err(format!("an unknown sign: {first}")),
        };
        tokens.push(match first {
            '"' | '[' | '0'..='9' => Token::Other,
            _ if is_word(first) => Token::Word(rest[..length].to_owned()),
            _ => Token::Sign(first),
        });
        rest = rest[length..].trim_start();
    }
    let depth = |open, close| {
        let count = |sign| tokens.iter().filter(|token| **token == Token::Sign(sign)).count();
        count(open) == count(close)
    };
    match depth('(', ')') && depth('{', '}') {
        true => Ok(tokens),
        false => Err("parentheses that do not close".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_query_are_found() {
        let query = "histogram_quantile(0.99, sum by (le, operation) (rate(kcl_store_call_seconds_bucket{worker=~\"$worker\"}[$__rate_interval])))";
        assert_eq!(check(query).unwrap(), BTreeSet::from(["kcl_store_call_seconds"]));
        let query = "max by (worker) (kcl_freshness_seconds) > 300 or sum(increase(kcl_fetches_total{outcome!=\"empty\"}[5m])) / 2";
        assert_eq!(check(query).unwrap().len(), 2);
        let appeared = "(increase(kcl_task_panics_total[1h]) > 0) or (kcl_task_panics_total > 0 unless kcl_task_panics_total offset 1h)";
        assert_eq!(check(appeared).unwrap().len(), 1);
    }

    #[test]
    fn wrong_names_in_a_query_are_refused() {
        for (query, fault) in [
            ("max(kcl_freshnes_seconds)", "no metric kcl_freshnes_seconds"),
            ("median(kcl_freshness_seconds)", "no metric median"),
            ("max by (lease) (kcl_freshness_seconds)", "label lease"),
            ("kcl_fetches_total{verb=\"renew\"}", "no metric for that function"),
            ("rate(kcl_fetches_total{verb=\"renew\"}[5m])", "no label verb"),
            ("rate(kcl_freshness_seconds[5m])", "no metric for that function"),
            ("rate(kcl_process_seconds[5m])", "is a histogram"),
            ("sum by (le) (rate(kcl_process_seconds_count[5m]))", "label le"),
            ("max(kcl_freshness_seconds", "do not close"),
            ("kcl_task_panics_total > 0", "no metric for that function"),
            (
                "kcl_task_panics_total > 0 unless kcl_shards_gone_total offset 1h",
                "no metric for that function",
            ),
            ("1 > 0", "no metric"),
        ] {
            let error = check(query).unwrap_err();
            assert!(error.contains(fault), "{query}: {error}");
        }
    }
}
