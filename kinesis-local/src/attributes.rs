//! Attributes of a stream or consumer that change nothing in what it does here. Time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kcl_core::clock::Moment;

use super::error::ServiceError;
use super::value::{Map, Value};

/// The rolling time in which some changes of a stream are counted.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most tags that a stream or consumer has.
const MOST_TAGS: usize = 50;

/// The metrics that EnableEnhancedMonitoring knows, but for `ALL`.
const METRICS: &[&str] = &[
    "IncomingBytes",
    "IncomingRecords",
    "IteratorAgeMilliseconds",
    "OutgoingBytes",
    "OutgoingRecords",
    "ReadProvisionedThroughputExceeded",
    "WriteProvisionedThroughputExceeded",
];

/// A change of a stream that may be made only so often a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    ShardCount,
    Mode,
    StartEncryption,
    StopEncryption,
}

impl Change {
    fn operation(self) -> &'static str {
        match self {
            Self::ShardCount => "UpdateShardCount",
            Self::Mode => "UpdateStreamMode",
            Self::StartEncryption => "StartStreamEncryption",
            Self::StopEncryption => "StopStreamEncryption",
        }
    }
}

/// The attributes of a stream.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) tags: Tags,
    /// The key of its encryption, if that is on.
    pub(super) key: Option<String>,
    pub(super) metrics: Metrics,
    /// In MiB per second.
    pub(super) warm_throughput: Option<i64>,
    /// By the ARN of the stream or of one of its consumers.
    pub(super) policies: BTreeMap<String, String>,
    changes: BTreeMap<Change, VecDeque<Moment>>,
}

impl Attributes {
    pub(super) fn encryption(&self) -> &'static str {
        if self.key.is_some() { "KMS" } else { "NONE" }
    }

    /// Checks that one more change of this kind may be made; [`note`](Self::note) counts it.
    pub(super) fn may_change(
        &mut self,
        change: Change,
        most: Option<u32>,
        now: Moment,
    ) -> Result<(), ServiceError> {
        let made = self.changes.entry(change).or_default();
        made.retain(|at| now.saturating_since(*at) < DAY);
        match most {
            Some(most) if made.len() >= most as usize => Err(ServiceError::limit(format!(
                "{} was called {most} times for this stream within the last 24 hours, which is the limit.",
                change.operation()
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn note(&mut self, change: Change, now: Moment) {
        self.changes.entry(change).or_default().push_back(now);
    }
}

/// Tags, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tags(pub(super) BTreeMap<String, String>);

impl Tags {
    /// Adds the member `Tags` of a request. Nothing has changed if it is refused.
    pub(super) fn add(&mut self, request: &Map) -> Result<(), ServiceError> {
        let Some(added) = request.map("Tags")? else {
            return Ok(());
        };
        let mut tags = self.0.clone();
        for (key, value) in added.text_members()? {
            check_tag(key, value)?;
            tags.insert(key.to_owned(), value.to_owned());
        }
        if tags.len() > MOST_TAGS {
            return Err(ServiceError::invalid(format!(
                "A resource cannot have more than {MOST_TAGS} tags associated with it."
            )));
        }
        self.0 = tags;
        Ok(())
    }

    /// Removes the tags that the member `TagKeys` of a request names. Keys without a tag are passed over.
    pub(super) fn remove(&mut self, request: &Map) -> Result<(), ServiceError> {
        let keys = request.texts("TagKeys")?;
        if keys.is_empty() || keys.len() > MOST_TAGS {
            return Err(ServiceError::validation(format!(
                "TagKeys must have 1 to {MOST_TAGS} members"
            )));
        }
        for key in keys {
            self.0.remove(key);
        }
        Ok(())
    }

    /// The tags after a key, as answers show them.
    pub(super) fn list(&self, after: Option<&str>) -> Vec<Map> {
        let tags = self
            .0
            .iter()
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        tags.map(|(key, value)| Map::new().with("Key", key.as_str()).with("Value", value.as_str()))
            .collect()
    }
}

fn check_tag(key: &str, value: &str) -> Result<(), ServiceError> {
    if !(1..=128).contains(&key.chars().count()) || value.chars().count() > 256 {
        return Err(ServiceError::validation(
            "the key of a tag must have 1 to 128 characters, its value at most 256",
        ));
    }
    let allowed =
        |letter: char| letter.is_alphanumeric() || letter.is_whitespace() || "_./=+-%@:".contains(letter);
    if !key.chars().chain(value.chars()).all(allowed) {
        return Err(ServiceError::invalid(
            "Some of the tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . : / = + - % @.",
        ));
    }
    if key.to_lowercase().starts_with("aws:") {
        return Err(ServiceError::invalid(format!(
            "The tag key {key} is reserved: keys must not begin with aws:"
        )));
    }
    Ok(())
}

/// The metrics of single shards that are switched on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metrics(pub(super) BTreeSet<&'static str>);

impl Metrics {
    /// Those that the member `ShardLevelMetrics` of a request names.
    pub(super) fn of(request: &Map) -> Result<Self, ServiceError> {
        let named = request.texts("ShardLevelMetrics")?;
        if named.is_empty() || named.len() > METRICS.len() {
            return Err(ServiceError::validation(
                "ShardLevelMetrics must have 1 to 7 members",
            ));
        }
        let mut metrics = BTreeSet::new();
        for name in named {
            let known: Vec<&'static str> = METRICS
                .iter()
                .copied()
                .filter(|metric| *metric == name || name == "ALL")
                .collect();
            if known.is_empty() {
                return Err(ServiceError::validation(format!(
                    "{name:?} is not a metric of shards: ALL or one of {METRICS:?}"
                )));
            }
            metrics.extend(known);
        }
        Ok(Self(metrics))
    }

    /// Those with these names; unknown ones are passed over.
    pub(super) fn named(names: &[String]) -> Self {
        let known = METRICS.iter().copied();
        Self(
            known
                .filter(|metric| names.iter().any(|name| name == metric))
                .collect(),
        )
    }

    pub(super) fn list(&self) -> Value {
        Value::List(self.0.iter().map(|metric| Value::from(*metric)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_for_24_hours() {
        let mut attributes = Attributes::default();
        let at = |hours: u64| Moment::from_origin(Duration::from_secs(hours * 3600));
        for hour in [0, 1] {
            attributes.may_change(Change::Mode, Some(2), at(hour)).unwrap();
            attributes.note(Change::Mode, at(hour));
        }
        let refused = attributes.may_change(Change::Mode, Some(2), at(23)).unwrap_err();
        assert_eq!(refused.code, "LimitExceededException");
        attributes
            .may_change(Change::ShardCount, Some(2), at(23))
            .unwrap();
        attributes.may_change(Change::Mode, None, at(23)).unwrap();
        attributes.may_change(Change::Mode, Some(2), at(24)).unwrap();
    }
}
