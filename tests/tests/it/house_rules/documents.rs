//! Rules for documents, comments, commit subjects and log lines.

use std::process::Command;

use kcl_core::metrics::ALL;
use kcl_tests::prose;

use super::*;

#[test]
fn table_of_metrics_is_the_code_s() {
    let documented = read(&root().join("docs/metrics.md"));
    let rows = documented.lines().filter(|line| line.starts_with("| `kcl_"));
    let rows: Vec<_> = rows.map(str::to_owned).collect();
    let in_words = |text: String| text.to_lowercase();
    let expected: Vec<_> = ALL
        .iter()
        .map(|metric| {
            let labels = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect::<Vec<_>>();
            let labels = match labels.is_empty() {
                true => String::new(),
                false => format!("{} ", labels.join(", ")),
            };
            let (kind, unit) = (format!("{:?}", metric.kind), format!("{:?}", metric.unit));
            let (name, help, level) = (metric.name, metric.help, format!("{:?}", metric.level));
            format!(
                "| `{name}` | {} | {} | {labels}| {} | {help} |",
                in_words(kind),
                in_words(unit),
                in_words(level)
            )
        })
        .collect();
    assert_eq!(rows, expected, "correct docs/metrics.md");
}

/// Commits before this one were made before there was a rule for subjects.
const SUBJECTS_CHECKED_SINCE: &str = "2796d8b";

/// The subject of one commit breaks the rule. Other work stood on it when that was seen, so it stays in the history.
const SUBJECT_EXCUSED: &str = "Let finished batches go while an older record is unfinished";

#[test]
fn documents_and_comments_keep_the_word_list() {
    let mut found = Vec::new();
    let mut searched = 0;
    for file in files(&root()) {
        let path = file.strip_prefix(root()).expect("a file of the repository");
        let findings = match file.extension().and_then(|extension| extension.to_str()) {
            Some("md") => prose::markdown(&read(&file)),
            Some("rs") => prose::rust(&read(&file)),
            _ => continue,
        };
        searched += 1;
        found.extend(
            findings
                .into_iter()
                .map(|finding| format!("{}:{}: {}", path.display(), finding.line, finding.rule)),
        );
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(searched > 40, "only {searched} files were searched");
}

/// Where the history is there: an archive of the sources has none, and a shallow clone a part.
#[test]
fn commit_subjects_are_imperatives() {
    let range = format!("{SUBJECTS_CHECKED_SINCE}..HEAD");
    let log = Command::new("git")
        .args(["log", "--no-merges", "--format=%s", &range])
        .current_dir(root())
        .output();
    let Some(log) = log.ok().filter(|log| log.status.success()) else {
        return;
    };
    let subjects = String::from_utf8_lossy(&log.stdout);
    let wrong: Vec<String> = subjects
        .lines()
        .filter(|subject| *subject != SUBJECT_EXCUSED)
        .filter_map(|subject| Some(format!("{subject}: {}", prose::subject(subject)?)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every setting, with its default as a file writes it.
#[test]
fn tuning_guide_names_every_setting_and_default() {
    let guide = read(&root().join("docs/tuning.md"));
    let defaults = serde_json::to_value(kcl_core::settings::Settings::default()).expect("settings are data");
    let mut missing = Vec::new();
    let mut leaves = vec![(String::new(), defaults)];
    while let Some((path, value)) = leaves.pop() {
        if let Value::Object(fields) = value {
            let prefix = match path.as_str() {
                "" => String::new(),
                path => format!("{path}."),
            };
            leaves.extend(
                fields
                    .into_iter()
                    .map(|(name, value)| (prefix.clone() + &name, value)),
            );
            continue;
        }
        let is_duration = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
        let value = match value.as_str() {
            Some(text) if is_duration(text) => text.to_owned(),
            _ => value.to_string(),
        };
        let row = format!("| `{path}` | {value} |");
        if !guide.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "correct docs/tuning.md: {missing:#?}");
}

#[test]
fn documents_name_metrics_that_exist() {
    let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    let documents = files(&root().join("docs"))
        .into_iter()
        .chain([root().join("README.md")]);
    let documents = documents.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    let mut seen = 0;
    for file in documents {
        let text = read(&file);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let looks_like_one = |word: &&str| {
            let suffixes = [
                "_total",
                "_seconds",
                "_held",
                "_bytes",
                "_of_concern",
                "_waiting",
                "_unfinished",
                "_on_hold",
            ];
            word.starts_with("kcl_") && suffixes.iter().any(|suffix| word.ends_with(suffix))
        };
        for word in words.filter(looks_like_one) {
            seen += 1;
            assert!(
                names.contains(word),
                "{} names {word}, which is no metric",
                file.display()
            );
        }
    }
    assert!(seen > 30, "only {seen} names were found");
}

/// The names of the fields of every log line in this code, as far as they are written out, with the line's beginning.
fn fields_of_lines(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for level in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
        for event in code.split(&format!("tracing::{level}")).skip(1) {
            // The message is the first text, and fields come before it.
            let fields = event.split('"').next().unwrap_or_default();
            for field in fields.split(',') {
                let name = field.split('=').next().unwrap_or_default().trim();
                found.push((
                    name.trim_start_matches(['%', '?']).to_owned(),
                    format!("{level}{fields}"),
                ));
            }
        }
    }
    found
}

/// The tasks of a lease run inside of its span, which carries the lease, the token and the worker: a line that says them again would have them
/// twice. Code that is called from elsewhere gives its lines the span as parent.
#[test]
fn lines_of_consumer_leave_lease_to_their_span() {
    let mut seen = 0;
    for file in rust_files(&root().join("kcl-core/src/consumer")) {
        for (field, line) in fields_of_lines(&read(&file)) {
            seen += 1;
            let is_of_span = ["lease", "token", "worker", "application"].contains(&field.as_str());
            assert!(
                !is_of_span,
                "{}: {line}… says {field}, as its span does",
                file.display()
            );
        }
    }
    assert!(seen > 30, "only {seen} fields were seen");
}

/// The message is a field of that name already, and the worker is in every line's span.
#[test]
fn no_log_field_is_called_message_or_worker() {
    for krate in [
        "kcl-aws",
        "kcl-cloudwatch",
        "kcl-core",
        "kcl-dead-letters",
        "kcl-http",
        "kcl-kinesis",
        "kcl-lease-dynamo",
        "kcl-lease-memory",
    ] {
        for file in rust_files(&root().join(krate).join("src")) {
            for (field, line) in fields_of_lines(&read(&file)) {
                let is_taken = ["message", "worker", "application"].contains(&field.as_str());
                assert!(!is_taken, "{}: {line}… has another {field}", file.display());
            }
        }
    }
}

#[test]
fn test_names_have_at_most_eight_words() {
    let mut long = Vec::new();
    let mut seen = 0;
    // The names of fuzz targets are those of the folders with their inputs.
    for package in package_folders().into_iter().filter(|package| package != "fuzz") {
        for file in rust_files(&root().join(package)) {
            let mut is_test = false;
            for line in read(&file).lines().map(str::trim_start) {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let line = line.strip_prefix("async ").unwrap_or(line);
                let Some(rest) = line.strip_prefix("fn ") else {
                    continue;
                };
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                if std::mem::take(&mut is_test) {
                    seen += 1;
                    if name.split('_').count() > 8 {
                        long.push(name.to_owned());
                    }
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
    assert!(seen > 500, "only {seen} tests were seen");
}
