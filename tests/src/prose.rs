//! How documents, comments and commit subjects read, as far as a word list can judge it.
//!
//! A sentence starts with its actor's noun. Some words are not used, because a plainer one says the same.

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line, counted from 1.
    pub line: usize,
    /// The rule that is broken.
    pub rule: String,
}

/// Words that no sentence starts with.
const STARTERS: &[&str] = &["whoever", "what", "who", "that which", "somebody", "nobody"];

/// Words and phrases that are not used, in every form in which they come.
const UNUSED: &[&str] = &[
    "all the same",
    "anew",
    "as good as",
    "befall",
    "befallen",
    "befalls",
    "befell",
    "begun",
    "burial",
    "buried",
    "buries",
    "bury",
    "doubt",
    "doubted",
    "doubts",
    "for itself",
    "hear",
    "heard",
    "hears",
    "is news",
    "of it",
    "of the user's",
    "said whether",
    "say whether",
    "says whether",
    "take in",
    "taken in",
    "takes in",
    "tell",
    "telling",
    "tells",
    "told",
    "took in",
    "wish",
    "wished",
    "wishes",
];

/// Checks a Markdown document, without its code, its headings and the header rows of its tables.
pub fn markdown(text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    let mut in_code = false;
    let mut before = "";
    for (index, line) in lines.iter().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            in_code = !in_code;
            before = "";
            continue;
        }
        if in_code {
            continue;
        }
        let is_header = lines.get(index + 1).is_some_and(|next| is_rule_of_table(next));
        let checks_starts = !line.starts_with('#') && !is_header;
        check(line, before, checks_starts, index + 1, &mut findings);
        before = line;
    }
    findings
}

/// Checks the comments of Rust code: the words of all, the beginnings of sentences in its documentation.
pub fn rust(code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_code = false;
    let mut before = String::new();
    let lines: Vec<&str> = code.lines().map(str::trim_start).collect();
    for (index, line) in lines.iter().enumerate() {
        let document = ["///", "//!"].iter().find_map(|mark| line.strip_prefix(mark));
        let Some(comment) = document.or_else(|| line.strip_prefix("//")) else {
            (in_code, before) = (false, String::new());
            continue;
        };
        let comment = comment.trim();
        if comment.starts_with("```") {
            in_code = !in_code;
            before.clear();
            continue;
        }
        if in_code {
            continue;
        }
        let next = lines
            .get(index + 1)
            .map(|next| next.trim_start_matches(['/', '!', ' ']));
        let is_header = next.is_some_and(is_rule_of_table);
        let checks_starts = document.is_some() && !comment.starts_with('#') && !is_header;
        check(comment, &before, checks_starts, index + 1, &mut findings);
        before = comment.to_owned();
    }
    findings
}

/// Returns the rule that a commit's subject breaks, if it breaks one.
pub fn subject(subject: &str) -> Option<&'static str> {
    let first = subject.split(' ').next().unwrap_or_default();
    if first == "Let" {
        Some("a subject is an imperative about the product, not a permission")
    } else if first.ends_with("ing") && first != "Bring" {
        Some("a subject is an imperative")
    } else if !first.starts_with(|letter: char| letter.is_uppercase()) || subject.ends_with('.') {
        Some("a subject starts with a capital and ends without a full stop")
    } else {
        None
    }
}

fn check(line: &str, before: &str, checks_starts: bool, number: usize, findings: &mut Vec<Finding>) {
    let text = without_code(line);
    let words = text.to_lowercase();
    let mut add = |rule: String| findings.push(Finding { line: number, rule });
    for word in UNUSED {
        if holds_word(&words, word) {
            add(format!("“{word}” is not used"));
        }
    }
    if !checks_starts {
        return;
    }
    let starts_here = is_item(line) || before.is_empty() || before.ends_with(['.', '!', '?', ':', '|', '`']);
    let parts = text.trim_matches('|').split('|').map(unmarked);
    for sentence in parts.flat_map(|part| sentences(part, starts_here)) {
        // A fragment, as in a cell of a table, is no sentence.
        if !sentence.starts_with(|letter: char| letter.is_uppercase()) {
            continue;
        }
        let lower = sentence.to_lowercase();
        let starter = STARTERS.iter().find(|starter| {
            lower
                .strip_prefix(**starter)
                .is_some_and(|rest| !rest.starts_with(is_part_of_word))
        });
        if let Some(starter) = starter.filter(|_| !lower.ends_with('?')) {
            add(format!("a sentence starts with “{starter}”"));
        }
    }
}

/// The line without code spans and the targets of links: names of others may be what they are.
fn without_code(line: &str) -> String {
    let mut text = String::new();
    for (index, part) in line.split('`').enumerate() {
        text.push_str(if index % 2 == 0 { part } else { "code" });
    }
    let mut kept = String::new();
    let mut rest = text.as_str();
    while let Some((head, tail)) = rest.split_once("](") {
        kept.push_str(head);
        kept.push(']');
        rest = tail.split_once(')').map_or("", |(_, after)| after);
    }
    kept + rest
}

/// Returns `true` if the line begins a new paragraph by itself: a list item, a row, a heading.
fn is_item(line: &str) -> bool {
    line.starts_with(['-', '*', '|', '#']) || line.starts_with(|letter: char| letter.is_ascii_digit())
}

/// The text without the marks of a list item and of emphasis at its beginning.
fn unmarked(part: &str) -> &str {
    let part = part.trim();
    let part = part.strip_prefix("- ").unwrap_or(part);
    let numbered = part
        .split_once(". ")
        .filter(|(number, _)| !number.is_empty() && number.chars().all(|letter| letter.is_ascii_digit()));
    numbered.map_or(part, |(_, rest)| rest).trim_start_matches('*')
}

/// The sentences that begin in this text.
fn sentences(text: &str, starts_here: bool) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(['.', '!', '?']) {
        if text[at + 1..].starts_with(' ') {
            sentences.push(&text[start..=at]);
            start = at + 2;
        }
    }
    sentences.push(&text[start..]);
    sentences.drain(..usize::from(!starts_here));
    sentences
}

/// Returns `true` if the text has the word, and not merely as a part of another.
fn holds_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part_of_word) && !text[at + word.len()..].starts_with(is_part_of_word)
    })
}

fn is_part_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '-'
}

/// Returns `true` if this line makes the one before it the header of a table.
fn is_rule_of_table(line: &str) -> bool {
    line.starts_with('|') && line.chars().all(|letter| matches!(letter, '|' | '-' | ':' | ' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(findings: &[Finding]) -> Vec<(usize, &str)> {
        findings
            .iter()
            .map(|finding| (finding.line, finding.rule.as_str()))
            .collect()
    }

    #[test]
    fn markdown_findings_leave_code_and_headings_out() {
        let text = "# What it is\n\nA worker. Whoever leads it.\n`told` and ```\n```sh\nanew\n```\n| What | Who |\n|---|---|\n\
                    | a | Nobody |\n- **What comes** next.\nWhat now, after this?\nthe retelling goes\non. What follows\n";
        let expected = [
            (3, "a sentence starts with “whoever”"),
            (10, "a sentence starts with “nobody”"),
            (11, "a sentence starts with “what”"),
            (14, "a sentence starts with “what”"),
        ];
        assert_eq!(rules(&markdown(text)), expected);
    }

    #[test]
    fn rust_findings_are_in_comments_only() {
        let code = "/// A lease, all the same.\n/// ```\n/// told();\n/// ```\n// What is fine here: a comment.\n\
                    let wish = \"anew\";\n/// It says\n/// what it holds.\n    //! Who leads.\n/// | What | b |\n/// |---|---|\n/// Whatever comes, what then.\n";
        let expected = [
            (1, "“all the same” is not used"),
            (9, "a sentence starts with “who”"),
        ];
        assert_eq!(rules(&rust(code)), expected);
    }

    #[test]
    fn subjects_are_imperatives() {
        assert_eq!(subject("Reject late lease creation"), None);
        assert_eq!(subject("Bring the table up to date"), None);
        for wrong in [
            "Let a worker wait",
            "Fixing a test",
            "reject it",
            "Reject it.",
            "",
        ] {
            assert!(subject(wrong).is_some(), "{wrong:?}");
        }
    }
}
