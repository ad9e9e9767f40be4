//! The parts of series that are on their way.

use std::collections::BTreeMap;

use metrics::{Key, Unit};

use crate::statistics::Statistics;

/// The name of a series, with its labels in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SeriesKey {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
}

impl From<&Key> for SeriesKey {
    fn from(key: &Key) -> Self {
        let labels = key
            .labels()
            .map(|label| (label.key().to_owned(), label.value().to_owned()));
        let labels: BTreeMap<_, _> = labels.collect();
        Self {
            name: key.name().to_owned(),
            labels: labels.into_iter().collect(),
        }
    }
}

/// The part of a series that is on its way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taken {
    pub(crate) key: SeriesKey,
    pub(crate) value: TakenValue,
    pub(crate) unit: Option<Unit>,
}

/// The values that were taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TakenValue {
    /// The rise of a counter.
    Rise(u64),
    /// The values of a gauge, which are of no use later.
    Level(Statistics),
    /// The values of a histogram.
    Spread(Statistics),
}
