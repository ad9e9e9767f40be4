//! The text of an error, without what must not be logged.

use std::error::Error as StdError;

use crate::CommonError;

/// The longest text of a service that is quoted, in characters.
const LONGEST: usize = 600;
/// The longest error code that is quoted; those of AWS have less than fifty characters.
const LONGEST_CODE: usize = 100;
/// From which length on a word of base64 may be a key or a token: a secret access key has 40 characters.
const SECRET: usize = 32;
/// Where a text begins to quote the request with its headers.
const QUOTES: [&str; 4] = [
    "The Canonical String",
    "The String-to-Sign",
    "AWS4-HMAC-SHA256",
    "x-amz-",
];

/// The message of a service beside its error code, as far as it may be logged.
///
/// A service explains a wrong signature by quoting the request, with the session token in its headers, so that is never quoted. Of
/// anything else the first line is, cut where it goes on to quote a request, and without words that may be keys or tokens.
pub fn redacted_message(code: Option<&str>, said: Option<&str>) -> Option<String> {
    if matches!(
        CommonError::of(code),
        Some(CommonError::Signature | CommonError::Credentials | CommonError::Expired)
    ) {
        return None;
    }
    let text = masked(said?);
    (!text.is_empty()).then_some(text)
}

/// The error code as it may be logged: it is a word of the service, or of whatever answers in its place.
pub fn redacted_code(code: &str) -> String {
    let begin: String = code.chars().take(LONGEST_CODE).collect();
    let cut = if begin.len() < code.len() { "…" } else { "" };
    format!("{}{cut}", masked(&begin))
}

/// The error with all its causes on one line, each said once, without words that may be keys or tokens.
pub fn error_chain(error: &dyn StdError) -> String {
    // The sources of credentials that were tried stand on lines of their own.
    let on_one_line = |error: &dyn StdError| {
        let text = error.to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        masked(&lines.collect::<Vec<_>>().join(" | "))
    };
    let mut chain = on_one_line(error);
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = on_one_line(next);
        if !chain.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        cause = next.source();
    }
    chain
}

fn masked(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let lower = line.to_ascii_lowercase();
    let quotes = QUOTES
        .iter()
        .filter_map(|quote| lower.find(&quote.to_ascii_lowercase()));
    // `lower` has the same places as `line`: only ASCII letters differ.
    let line = quotes.min().map_or(line, |begin| &line[..begin]);
    let mut masked = String::new();
    let mut left = LONGEST;
    for word in line.split_inclusive(char::is_whitespace) {
        let shown = if may_hold_a_secret(word) { "*** " } else { word };
        left = left.saturating_sub(shown.chars().count());
        if left == 0 {
            masked.push('…');
            break;
        }
        masked.push_str(shown);
    }
    masked.trim_end().to_owned()
}

/// Returns `true` if the word holds a long run of base64 and is no ARN.
fn may_hold_a_secret(word: &str) -> bool {
    if word
        .trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric())
        .starts_with("arn:")
    {
        return false;
    }
    let is_base64 = |letter: char| letter.is_ascii_alphanumeric() || "+/=_".contains(letter);
    let mut runs = word.split(|letter| !is_base64(letter));
    runs.any(|run| {
        let has = |kind: fn(&u8) -> bool| run.bytes().any(|byte| kind(&byte));
        run.len() >= SECRET
            && has(u8::is_ascii_digit)
            && (has(u8::is_ascii_uppercase) || has(u8::is_ascii_lowercase))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "IQoJb3JpZ2luX2VjEKr//////////wEaCWV1LXdlc3QtMSJHMEUCIQDcanary0123456789";
    const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    #[test]
    fn no_error_quotes_the_request_it_answers() {
        let said = format!(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key.\n\n\
             The Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:{TOKEN}\n\nhost'"
        );
        let one_line = said.replace('\n', " ");
        for text in [&said, &one_line] {
            for code in CommonError::listed()
                .map(Some)
                .chain([None, Some("SomethingNewException")])
            {
                let quoted = redacted_message(code, Some(text)).unwrap_or_default();
                assert!(!quoted.contains("canary"), "{code:?}: {quoted}");
            }
        }
        assert_eq!(
            redacted_message(Some("InvalidSignatureException"), Some(&said)),
            None
        );
    }

    #[test]
    fn keys_and_tokens_are_masked_wherever_they_stand() {
        for secret in [TOKEN, SECRET_KEY] {
            for text in [
                secret.to_owned(),
                format!("token={secret};"),
                format!("unexpected \"{secret}\" in it"),
            ] {
                let quoted = redacted_message(None, Some(&text)).unwrap();
                assert!(!quoted.contains(secret) && quoted.contains("***"), "{quoted}");
            }
        }
    }

    #[test]
    fn what_helps_is_quoted_as_it_was_said() {
        for text in [
            "User: arn:aws:sts::123456789012:assumed-role/TruckTrackerWorkerRoleInEurope1/i-0123456789abcdef0 is not authorized to perform: kinesis:GetRecords",
            "Rate exceeded for shard shardId-000000000001 in stream trucks under account 123456789012.",
            "Shard shardId-000000000001 of 49590338271490256608559692538361571095921575989136588898 is gone",
        ] {
            let quoted = redacted_message(Some("AccessDeniedException"), Some(text)).unwrap();
            assert!(!quoted.contains("***"), "{quoted}");
            assert_eq!(quoted, text);
        }
        let long = "word ".repeat(1000);
        assert!(redacted_message(None, Some(&long)).unwrap().chars().count() <= LONGEST + 1);
        assert_eq!(redacted_message(None, Some(" \n ")), None);
    }

    #[test]
    fn code_is_quoted_up_to_a_length() {
        let code = "ProvisionedThroughputExceededException";
        assert_eq!(redacted_code(code), code);
        assert_eq!(redacted_code(TOKEN), "***");
        assert_eq!(redacted_code(&"x".repeat(1000)).chars().count(), LONGEST_CODE + 1);
    }

    #[test]
    fn every_line_of_a_cause_is_told() {
        let chain =
            format!("no credentials found in chain. Attempted:\n  Profile: not found\n  Web: {TOKEN}\n");
        let said = error_chain(&std::io::Error::other(chain));
        assert_eq!(
            said,
            "no credentials found in chain. Attempted: | Profile: not found | Web: ***"
        );
    }

    #[test]
    fn a_cause_is_said_once() {
        let inner = std::io::Error::other("the connection was reset");
        assert_eq!(error_chain(&inner), "the connection was reset");
    }
}
