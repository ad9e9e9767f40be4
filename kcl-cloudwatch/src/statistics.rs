//! Values that are added up: their number, their sum, the least and the greatest.

/// The statistics of at least one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) count: f64,
    pub(crate) sum: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Statistics {
    /// The statistics of one value.
    pub(crate) fn of(value: f64) -> Self {
        Self::of_many(value, 1)
    }

    /// The statistics of a value that came so often.
    #[expect(clippy::cast_precision_loss, reason = "CloudWatch counts in floats")]
    pub(crate) fn of_many(value: f64, times: usize) -> Self {
        let count = times as f64;
        Self {
            count,
            sum: value * count,
            least: value,
            greatest: value,
        }
    }

    /// The statistics of both.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
        }
    }

    /// The statistics in a unit of which each value has so many.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self {
            count: self.count,
            sum: self.sum * factor,
            least: self.least * factor,
            greatest: self.greatest * factor,
        }
    }
}

/// Adds statistics to those that are there.
pub(crate) fn add(to: &mut Option<Statistics>, more: Statistics) {
    *to = Some(to.map_or(more, |there| there.with(more)));
}
