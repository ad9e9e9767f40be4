//! The text format in which Prometheus reads metrics, as strictly as its own tools check it.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    /// The families by their names.
    pub families: BTreeMap<String, Family>,
}

/// A family: all series of a name, those of its buckets, sums and counts included.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Family {
    /// The type, such as `counter`.
    pub kind: String,
    /// The help text.
    pub help: String,
    /// The samples in the order of the text.
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name of the series, with a suffix such as `_bucket` where there is one.
    pub name: String,
    /// The labels, without their escapes.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Exposition {
    /// Reads a scrape.
    ///
    /// # Errors
    ///
    /// The first thing that the format or good practice forbids.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line has no end".to_owned());
        }
        let mut reading = ScrapeReader::default();
        for (index, line) in text.lines().enumerate() {
            reading
                .line(line)
                .map_err(|error| format!("line {}: {error}: {line}", index + 1))?;
        }
        let exposition = Self {
            families: reading.families,
        };
        for (name, family) in &exposition.families {
            family.check(name).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(exposition)
    }

    /// The series as Prometheus counts them: each line with a value.
    pub fn lines(&self) -> usize {
        self.families.values().map(|family| family.samples.len()).sum()
    }

    /// The metrics as CloudWatch counts them: each name with labels of its own. The buckets of a histogram are one.
    pub fn metrics(&self) -> usize {
        self.families.values().map(Family::metrics).sum()
    }
}

/// The state of reading.
#[derive(Default)]
struct ScrapeReader {
    families: BTreeMap<String, Family>,
    /// The family that the lines are about.
    current: Option<String>,
    seen: BTreeSet<(String, BTreeMap<String, String>)>,
}

impl ScrapeReader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("a help without a text")?;
            let family = self.begin(name)?;
            if !family.help.is_empty() || !family.kind.is_empty() {
                return Err("a second help, or one after the type".to_owned());
            }
            family.help = unescaped(help, false)?;
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("a type without a word")?;
            if !["counter", "gauge", "histogram", "summary"].contains(&kind) {
                return Err("no such type".to_owned());
            }
            let family = self.begin(name)?;
            if !family.kind.is_empty() {
                return Err("a second type".to_owned());
            }
            kind.clone_into(&mut family.kind);
            return Ok(());
        }
        if line.starts_with('#') {
            return Err("a comment".to_owned());
        }
        let sample = sample(line)?;
        if !self.seen.insert((sample.name.clone(), sample.labels.clone())) {
            return Err("the series is there twice".to_owned());
        }
        let current = self.current.clone().ok_or("a sample before any type")?;
        let family = self.families.get_mut(&current).ok_or("no family")?;
        if family.kind.is_empty() || family.help.is_empty() {
            return Err("a sample before its help or type".to_owned());
        }
        let suffix = sample
            .name
            .strip_prefix(&current)
            .ok_or("a sample of another family")?;
        let allowed: &[&str] = match family.kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["", "_sum", "_count"],
            _ => &[""],
        };
        if !allowed.contains(&suffix) {
            return Err("a sample of another family".to_owned());
        }
        family.samples.push(sample);
        Ok(())
    }

    /// The family of a line with help or type: the current one, or one that is new.
    fn begin(&mut self, name: &str) -> Result<&mut Family, String> {
        if !is_name(name, true) {
            return Err("no name of a metric".to_owned());
        }
        if self.current.as_deref() != Some(name) {
            if self.families.contains_key(name) {
                return Err("the lines of the family are not together".to_owned());
            }
            self.current = Some(name.to_owned());
        }
        let family = self.families.entry(name.to_owned()).or_default();
        match family.samples.is_empty() {
            true => Ok(family),
            false => Err("it comes after samples".to_owned()),
        }
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<(), String> {
        if self.samples.is_empty() {
            return Err("no samples".to_owned());
        }
        match self.kind.as_str() {
            "counter" if !name.ends_with("_total") => Err("a counter without _total".to_owned()),
            "counter" if self.samples.iter().any(|sample| sample.value < 0.0) => {
                Err("a negative counter".to_owned())
            }
            "gauge" if name.ends_with("_total") => Err("a gauge with _total".to_owned()),
            "histogram" => self
                .series("le")
                .values()
                .try_for_each(|samples| histogram(samples)),
            "summary" => self
                .series("quantile")
                .values()
                .try_for_each(|samples| summary(samples)),
            _ => Ok(()),
        }
    }

    fn metrics(&self) -> usize {
        self.series(if self.kind == "histogram" {
            "le"
        } else {
            "quantile"
        })
        .len()
    }

    /// The samples by their labels without this one.
    fn series(&self, without: &str) -> BTreeMap<BTreeMap<String, String>, Vec<&Sample>> {
        let mut series = BTreeMap::<_, Vec<_>>::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            labels.remove(without);
            series.entry(labels).or_default().push(sample);
        }
        series
    }
}

fn the_one(samples: &[&Sample], suffix: &str) -> Result<f64, String> {
    let mut found = samples.iter().filter(|sample| sample.name.ends_with(suffix));
    match (found.next(), found.next()) {
        (Some(sample), None) => Ok(sample.value),
        _ => Err(format!("not one {suffix} in a series")),
    }
}

fn histogram(samples: &[&Sample]) -> Result<(), String> {
    let (mut bound, mut below) = (f64::NEG_INFINITY, 0.0);
    for bucket in samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let le = bucket.labels.get("le").ok_or("a bucket without a bound")?;
        let le = value(le)?;
        if le <= bound || bucket.value < below {
            return Err(format!("the bucket {le} does not rise"));
        }
        (bound, below) = (le, bucket.value);
    }
    let (count, _) = (the_one(samples, "_count")?, the_one(samples, "_sum")?);
    if bound != f64::INFINITY || below != count {
        return Err("the last bucket is not the count".to_owned());
    }
    Ok(())
}

fn summary(samples: &[&Sample]) -> Result<(), String> {
    the_one(samples, "_count")?;
    the_one(samples, "_sum")?;
    for quantile in samples.iter().filter_map(|sample| sample.labels.get("quantile")) {
        if !(0.0..=1.0).contains(&value(quantile)?) {
            return Err(format!("no quantile is {quantile}"));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no name of a series".to_owned());
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let number = rest.strip_prefix(' ').ok_or("no space before the value")?;
    if number.contains(' ') {
        return Err("something behind the value".to_owned());
    }
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value(number)?,
    })
}

/// The labels up to the closing brace, and the text behind it.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, behind) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, false) || name.starts_with("__") {
            return Err(format!("no name of a label: {name}"));
        }
        let end = end_of_text(behind).ok_or("a label without an end")?;
        let text = unescaped(&behind[..end], true)?;
        if labels.insert(name.to_owned(), text).is_some() {
            return Err(format!("the label {name} is there twice"));
        }
        rest = &behind[end + 1..];
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((labels, behind));
        }
        rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

/// The place of the first quotation mark that is not escaped.
fn end_of_text(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, letter)| {
        let ends = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ends.then_some(at)
    })
}

/// Help texts escape the backslash and the line feed, labels the quotation mark as well.
fn unescaped(text: &str, is_label: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next() {
            Some('\\') => '\\',
            Some('n') => '\n',
            Some('"') if is_label => '"',
            other => return Err(format!("no escape: {other:?}")),
        });
    }
    Ok(plain)
}

fn value(text: &str) -> Result<f64, String> {
    let is_number = |letter: char| letter.is_ascii_digit() || "+-.eE".contains(letter);
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.chars().all(is_number) => text.parse().map_err(|_| format!("no number: {text}")),
        _ => Err(format!("no number: {text}")),
    }
}

/// Names of metrics may have colons, those of labels not.
fn is_name(name: &str, is_metric: bool) -> bool {
    let is_part =
        |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || (is_metric && letter == ':');
    name.chars().all(is_part) && name.starts_with(|first: char| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total One.\n# TYPE a_total counter\na_total{x=\"\\\"\\\\\\n\"} 1\na_total{x=\"2\"} 1e3\n\n\
        # HELP b_seconds Two.\n# TYPE b_seconds histogram\nb_seconds_bucket{le=\"0.5\"} 1\n\
        b_seconds_bucket{le=\"+Inf\"} 3\nb_seconds_sum 4.5\nb_seconds_count 3\n";

    #[test]
    fn well_formed_scrape_is_read() {
        let scrape = Exposition::parse(GOOD).unwrap();
        assert_eq!((scrape.lines(), scrape.metrics()), (6, 3));
        let first = &scrape.families["a_total"].samples[0];
        assert_eq!((first.labels["x"].as_str(), first.value), ("\"\\\n", 1.0));
        assert_eq!(scrape.families["b_seconds"].help, "Two.");
    }

    #[test]
    fn every_fault_of_a_scrape_is_seen() {
        let faults = [
            (
                "# HELP a_total One.\n# TYPE a_total counter\n",
                "# TYPE a_total counter\n",
                "a sample before its help",
            ),
            ("# TYPE a_total counter\n", "", "a sample before its help"),
            ("# TYPE a_total counter", "# TYPE a_total count", "no such type"),
            (
                "# TYPE a_total counter\n",
                "# TYPE a_total counter\n# TYPE a_total counter\n",
                "a second type",
            ),
            (
                "a_total{x=\"2\"} 1e3",
                "a_total{x=\"\\\"\\\\\\n\"} 2",
                "there twice",
            ),
            ("a_total{x=\"2\"} 1e3", "a_total{x=\"2\"} -1", "negative"),
            (
                "a_total{x=\"2\"}",
                "a_total{x=\"2\",x=\"3\"}",
                "the label x is there twice",
            ),
            ("a_total{x=\"2\"}", "a_total{1x=\"2\"}", "no name of a label"),
            ("a_total{x=\"2\"}", "a_total{x=\"\\t\"}", "no escape"),
            ("a_total{x=\"2\"} 1e3", "a_total{x=\"2\"} many", "no number"),
            (
                "a_total{x=\"2\"} 1e3",
                "a_total{x=\"2\"} 1 1700000000",
                "behind the value",
            ),
            ("a_total", "a", "without _total"),
            ("\n# HELP b", "c_total 1\n# HELP b", "another family"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 4", "does not rise"),
            ("le=\"+Inf\"} 3", "le=\"+Inf\"} 2", "not the count"),
            ("b_seconds_bucket{le=\"+Inf\"} 3\n", "", "not the count"),
            ("b_seconds_sum 4.5\n", "", "not one _sum"),
            ("count 3\n", "count 3\n# HELP a_total One.\n", "not together"),
            ("count 3\n", "count 3", "no end"),
        ];
        for (from, to, fault) in faults {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = Exposition::parse(&text).unwrap_err();
            assert!(error.contains(fault), "{fault}: {error}");
        }
    }
}
