//! Which data CloudWatch takes. One that it does not take makes it refuse the whole call.

use std::collections::BTreeSet;

use crate::names::{Datum, DatumValue, LONGEST_NAME, LONGEST_VALUE, MOST_DIMENSIONS};

/// The most distinct metrics whose faults are remembered, so that each is logged once.
const MOST_REMEMBERED: usize = 1000;

/// The exponent of the largest value that CloudWatch takes: 2^360, and its negative.
const GREATEST_EXPONENT: i32 = 360;

/// Says why CloudWatch would refuse the datum, if it would.
pub(crate) fn fault(datum: &Datum) -> Option<&'static str> {
    if !is_text(&datum.name, LONGEST_NAME) {
        return Some("the name is empty, too long or not in printable ASCII");
    }
    if datum.dimensions.len() > MOST_DIMENSIONS {
        return Some("there are more than 30 dimensions");
    }
    let mut names = BTreeSet::new();
    for (name, value) in &datum.dimensions {
        if !is_text(name, LONGEST_NAME) || name.starts_with(':') || !is_text(value, LONGEST_VALUE) {
            return Some("a dimension is empty, too long or not in printable ASCII");
        }
        if !names.insert(name) {
            return Some("two dimensions have one name");
        }
    }
    let values = match datum.value {
        DatumValue::One(value) => vec![value],
        DatumValue::Many(values) => vec![values.sum, values.least, values.greatest, values.count],
    };
    if values.iter().any(|value| !is_number(*value)) {
        return Some("a value is not finite, or beyond 2^360");
    }
    match datum.value {
        DatumValue::Many(values) if values.count <= 0.0 || values.least > values.greatest => {
            Some("the statistics are of no values")
        }
        DatumValue::Many(_) | DatumValue::One(_) => None,
    }
}

fn is_text(text: &str, longest: usize) -> bool {
    let is_printable = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    !text.trim().is_empty() && text.len() <= longest && text.chars().all(is_printable)
}

fn is_number(value: f64) -> bool {
    value.is_finite() && value.abs() <= 2.0_f64.powi(GREATEST_EXPONENT)
}

/// The data that were dropped.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    logged: BTreeSet<String>,
}

impl Dropped {
    /// Logs the first datum of a metric that is dropped.
    pub(crate) fn log(&mut self, datum: &Datum, reason: &str) {
        if self.logged.len() < MOST_REMEMBERED && self.logged.insert(datum.name.clone()) {
            tracing::warn!(
                metric = datum.name,
                reason,
                "dropped a metric that CloudWatch does not take"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Statistics;

    fn datum(value: DatumValue) -> Datum {
        Datum {
            name: "orders".to_owned(),
            dimensions: vec![("kind".to_owned(), "new".to_owned())],
            unit: "Count",
            value,
        }
    }

    #[test]
    fn values_beyond_the_limits_are_faults() {
        for value in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            2.0_f64.powi(361),
            -1e300,
        ] {
            assert!(fault(&datum(DatumValue::One(value))).is_some(), "{value}");
            let mut many = Statistics::of_many(1.0, 2);
            many.sum = value;
            assert!(fault(&datum(DatumValue::Many(many))).is_some(), "{value}");
        }
        for value in [0.0, -1.5, 2.0_f64.powi(360), -(2.0_f64.powi(360))] {
            assert_eq!(fault(&datum(DatumValue::One(value))), None, "{value}");
        }
        assert_eq!(fault(&datum(DatumValue::Many(Statistics::of_many(1.0, 2)))), None);
    }

    #[test]
    fn names_beyond_the_limits_are_faults() {
        let with = |name: &str, value: &str| Datum {
            dimensions: vec![(name.to_owned(), value.to_owned())],
            ..datum(DatumValue::One(1.0))
        };
        let (long, longer) = ("x".repeat(256), "x".repeat(1025));
        for (name, value) in [
            ("", "a"),
            ("a", " "),
            (":a", "b"),
            ("a", "ü"),
            (&long, "a"),
            ("a", &longer),
        ] {
            assert!(fault(&with(name, value)).is_some(), "{name:?} {value:?}");
        }
        assert_eq!(fault(&with(&"x".repeat(255), &"x".repeat(1024))), None);
        let mut twice = with("a", "b");
        twice.dimensions.push(("a".to_owned(), "c".to_owned()));
        assert!(fault(&twice).is_some());
        let mut many = datum(DatumValue::One(1.0));
        many.dimensions = (0..31)
            .map(|number| (format!("d{number}"), "v".to_owned()))
            .collect();
        assert!(fault(&many).is_some());
        let nameless = Datum {
            name: String::new(),
            ..datum(DatumValue::One(1.0))
        };
        assert!(fault(&nameless).is_some());
    }
}
