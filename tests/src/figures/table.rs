//! Figures as a table for people, in Markdown.

use std::fmt;

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The measured quantity.
    pub what: String,
    /// The measured value.
    pub measured: String,
    /// The expected value.
    pub target: &'static str,
    /// The same on the Java KCL 3.1.3, as measured once on the same servers.
    pub java: &'static str,
    /// The same on kcl-rs 0.1.4, as measured once on the same servers.
    pub kcl_rs: &'static str,
}

/// Figures below each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table(pub Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | here | target | Java KCL 3.1.3 | kcl-rs 0.1.4 |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        self.0.iter().try_for_each(|row| {
            let Row {
                what,
                measured,
                target,
                java,
                kcl_rs,
            } = row;
            writeln!(f, "| {what} | {measured} | {target} | {java} | {kcl_rs} |")
        })
    }
}

/// Several measurements of one thing, in seconds: the median, and the range where there is one.
pub fn seconds(measured: &[f64]) -> String {
    let mut sorted = measured.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(least), Some(median), Some(most)) if least < most => {
            format!("{median:.2} s ({least:.2}–{most:.2})")
        }
        (Some(only), ..) => format!("{only:.2} s"),
        _ => "not measured".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_measurements_show_median_and_range() {
        assert_eq!(seconds(&[0.5, 0.25, 1.0]), "0.50 s (0.25–1.00)");
        assert_eq!(seconds(&[0.5]), "0.50 s");
        assert_eq!(seconds(&[]), "not measured");
    }
}
