//! The report of an owner about its shard, in the row of the lease.
//!
//! It rides on the renewals and checkpoints that are written anyway, so that a reader of the table sees the state of the fleet. It is for
//! people and their tools: no worker decides by it.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use crate::types::{Position, RecordPosition, Timestamp};

/// The state of a shard, as its owner last wrote it into the row of the lease.
///
/// # As text
///
/// The row keeps it in one attribute of at most [`LONGEST`](Self::LONGEST) bytes: words of a letter and a value, in any order, such as
/// `t1764530000 b1200 f1300 p12 wcallback r90 o88`. A reader ignores letters that it does not know.
///
/// | Letter | Field |
/// |---|---|
/// | `t` | [`at`](Self::at), in seconds |
/// | `b`, `f` | [`behind`](Self::behind) and [`freshness`](Self::freshness), in milliseconds |
/// | `p` | [`last_progress`](Self::last_progress), in milliseconds |
/// | `w` | [`waiting_for`](Self::waiting_for) |
/// | `a` | [`attempts`](Self::attempts), absent for 0 |
/// | `c` | [`concern`](Self::concern) |
/// | `r`, `o` | [`read_per_minute`](Self::read_per_minute) and [`processed_per_minute`](Self::processed_per_minute), absent for 0 |
/// | `s` | [`trend`](Self::trend), absent for 0 |
/// | `x` | [`failing`](Self::failing) |
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::lease_store::ShardReport;
///
/// let report: ShardReport = "t1764530000 b1200 f1300 p12 wcallback r90".parse()?;
/// assert_eq!(report.behind, Duration::from_millis(1200));
/// assert_eq!(report.waiting_for.as_deref(), Some("callback"));
/// assert_eq!(report.to_string(), "t1764530000 b1200 f1300 p12 wcallback r90");
/// # Ok::<(), kcl_core::lease_store::InvalidReport>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardReport {
    /// When it was written, by the owner's wall clock, in whole seconds. For people; it is never compared.
    pub at: Timestamp,
    /// How far the reading is behind the newest record of the shard.
    pub behind: Duration,
    /// How old the oldest record may be that is not finished.
    pub freshness: Duration,
    /// The time since the consumer last made progress: an answer came, or a call returned.
    pub last_progress: Duration,
    /// The name of the [`WaitReason`](crate::status::WaitReason), if the consumer waits for something, in `snake_case`. A later version may
    /// write a name that is not known here.
    pub waiting_for: Option<String>,
    /// How often in a row the processor has failed on the record or batch at which the shard is held.
    pub attempts: u32,
    /// The name of the [`HealthIssue`](crate::status::HealthIssue), if the shard has one, in `snake_case`.
    pub concern: Option<String>,
    /// How many records were read per minute.
    pub read_per_minute: u64,
    /// How many records were processed per minute.
    pub processed_per_minute: u64,
    /// By how many milliseconds `behind` grows per second; negative while the shard catches up.
    pub trend: i32,
    /// The record that the processor fails on, or that cannot be read.
    pub failing: Option<RecordPosition>,
}

/// The text is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the report of a shard has no valid word {word:?}")]
pub struct InvalidReport {
    word: String,
}

/// The longest age that is written: 115 days, in milliseconds.
const LONGEST_AGE: u128 = 9_999_999_999;
const MOST_ATTEMPTS: u32 = 99_999;
const MOST_PER_MINUTE: u64 = 999_999_999;
const STEEPEST_TREND: i32 = 99_999;
/// The longest name of a reason or concern.
const LONGEST_NAME: usize = 16;

impl ShardReport {
    /// The most bytes of the text. With the name of the attribute a row is longer by at most 200 bytes.
    pub const LONGEST: usize = 190;

    /// A report at this time of a shard that keeps up.
    pub fn new(at: Timestamp) -> Self {
        Self {
            at: Timestamp::from_millis(at.as_secs().saturating_mul(1000)),
            behind: Duration::ZERO,
            freshness: Duration::ZERO,
            last_progress: Duration::ZERO,
            waiting_for: None,
            attempts: 0,
            concern: None,
            read_per_minute: 0,
            processed_per_minute: 0,
            trend: 0,
            failing: None,
        }
    }

    /// How long the shard needs to catch up at the present [trend](Self::trend); zero if it keeps up, `None` if it falls behind.
    pub fn catch_up(&self) -> Option<Duration> {
        let behind = self.behind;
        match self.trend {
            _ if behind < Duration::from_secs(1) => Some(Duration::ZERO),
            trend if trend < 0 => Some(behind.mul_f64(1000.0 / f64::from(trend.unsigned_abs()))),
            _ => None,
        }
    }
}

impl std::fmt::Display for ShardReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::with_capacity(Self::LONGEST);
        let age = |age: Duration| age.as_millis().min(LONGEST_AGE);
        let _ = write!(
            text,
            "t{} b{} f{} p{}",
            self.at.as_secs().clamp(0, 99_999_999_999),
            age(self.behind),
            age(self.freshness),
            age(self.last_progress)
        );
        for (letter, name) in [('w', &self.waiting_for), ('c', &self.concern)] {
            if let Some(name) = name.as_ref().filter(|name| is_name(name)) {
                let _ = write!(text, " {letter}{name}");
            }
        }
        if self.attempts > 0 {
            let _ = write!(text, " a{}", self.attempts.min(MOST_ATTEMPTS));
        }
        for (letter, rate) in [('r', self.read_per_minute), ('o', self.processed_per_minute)] {
            if rate > 0 {
                let _ = write!(text, " {letter}{}", rate.min(MOST_PER_MINUTE));
            }
        }
        if self.trend != 0 {
            let _ = write!(text, " s{}", self.trend.clamp(-STEEPEST_TREND, STEEPEST_TREND));
        }
        if let Some(failing) = &self.failing {
            let word = format!(" x{failing}");
            // A sequence number has at most 56 digits as Kinesis makes them; that of another server may be longer, and is left out.
            if text.len() + word.len() <= Self::LONGEST {
                text.push_str(&word);
            }
        }
        f.write_str(&text)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

impl FromStr for ShardReport {
    type Err = InvalidReport;

    fn from_str(text: &str) -> Result<Self, InvalidReport> {
        let mut report = Self::new(Timestamp::from_millis(0));
        let cut = |word: &str| InvalidReport {
            word: word.chars().take(20).collect(),
        };
        if text.len() > Self::LONGEST {
            return Err(cut(text));
        }
        let mut has_time = false;
        for word in text.split_ascii_whitespace() {
            let invalid = || cut(word);
            let mut chars = word.chars();
            let (Some(letter), value) = (chars.next(), chars.as_str()) else {
                continue;
            };
            let name = || is_name(value).then(|| value.to_owned()).ok_or_else(invalid);
            match letter {
                't' => {
                    let secs: i64 = number(value).ok_or_else(invalid)?;
                    report.at = Timestamp::from_millis(secs.saturating_mul(1000));
                    has_time = true;
                }
                'b' => report.behind = millis(value).ok_or_else(invalid)?,
                'f' => report.freshness = millis(value).ok_or_else(invalid)?,
                'p' => report.last_progress = millis(value).ok_or_else(invalid)?,
                'w' => report.waiting_for = Some(name()?),
                'c' => report.concern = Some(name()?),
                'a' => report.attempts = number(value).ok_or_else(invalid)?,
                'r' => report.read_per_minute = number(value).ok_or_else(invalid)?,
                'o' => report.processed_per_minute = number(value).ok_or_else(invalid)?,
                's' => report.trend = number(value).ok_or_else(invalid)?,
                'x' => report.failing = Some(record(value).ok_or_else(invalid)?),
                _ => {}
            }
        }
        match has_time {
            true => Ok(report),
            false => Err(cut(text)),
        }
    }
}

fn number<T: FromStr>(digits: &str) -> Option<T> {
    digits.parse().ok()
}

fn millis(digits: &str) -> Option<Duration> {
    let most = u64::try_from(LONGEST_AGE).unwrap_or(u64::MAX);
    number(digits).map(|millis: u64| Duration::from_millis(millis.min(most)))
}

/// A position as it is displayed: the sequence number, and the index in the aggregate behind a slash.
fn record(text: &str) -> Option<RecordPosition> {
    let (sequence, index) = text.split_once('/').unwrap_or((text, "0"));
    match Position::parse(sequence, number(index)?).ok()? {
        Position::Record(record) => Some(record),
        Position::AtTimestamp | Position::TrimHorizon | Position::Latest | Position::ShardEnd => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::status::{HealthIssue, WaitReason};
    use crate::types::SequenceNumber;

    fn largest() -> ShardReport {
        let digits = "9".repeat(56);
        ShardReport {
            at: Timestamp::from_millis(99_999_999_999_000),
            behind: Duration::MAX,
            freshness: Duration::MAX,
            last_progress: Duration::MAX,
            waiting_for: Some("a".repeat(11)),
            attempts: u32::MAX,
            concern: Some("b".repeat(16)),
            read_per_minute: u64::MAX,
            processed_per_minute: u64::MAX,
            trend: i32::MIN,
            failing: Some(RecordPosition {
                sequence: SequenceNumber::new(digits.as_str()).unwrap(),
                sub_sequence: 99_999,
            }),
        }
    }

    #[test]
    fn largest_report_names_its_failing_record() {
        let text = largest().to_string();
        assert!(text.len() <= ShardReport::LONGEST, "{} bytes: {text}", text.len());
        assert_eq!(text.parse::<ShardReport>().unwrap().failing, largest().failing);
    }

    #[test]
    fn every_reason_and_concern_has_room() {
        let waits = WaitReason::ALL.map(|reason| serde_json::to_string(&reason).unwrap());
        assert!(waits.iter().all(|name| name.len() - 2 <= 11), "{waits:?}");
        let concerns = HealthIssue::ALL.map(|issue| serde_json::to_string(&issue).unwrap());
        assert!(concerns.iter().all(|name| name.len() - 2 <= 16), "{concerns:?}");
    }

    #[test]
    fn absurd_report_makes_no_panic() {
        let report: ShardReport = "t1 b18446744073709551615 s-1".parse().unwrap();
        assert!(report.catch_up().is_some());
    }

    #[test]
    fn catching_up_takes_as_long_as_trend_says() {
        let report = |behind, trend| ShardReport {
            behind: Duration::from_secs(behind),
            trend,
            ..ShardReport::new(Timestamp::from_millis(0))
        };
        assert_eq!(report(60, -500).catch_up(), Some(Duration::from_secs(120)));
        assert_eq!(report(60, 0).catch_up(), None);
        assert_eq!(report(0, 900).catch_up(), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn text_of_report_reads_back(
            secs in 0_i64..10_000_000_000, ages in any::<[u32; 3]>(), waiting in proptest::option::of("[a-z_]{1,11}"),
            concern in proptest::option::of("[a-z_]{1,16}"), attempts in 0_u32..99_999, rates in any::<[u32; 2]>(),
            trend in -99_999_i32..99_999, failing in proptest::option::of((1_u64.., 0_u64..1000)),
        ) {
            let report = ShardReport {
                behind: Duration::from_millis(ages[0].into()),
                freshness: Duration::from_millis(ages[1].into()),
                last_progress: Duration::from_millis(ages[2].into()),
                waiting_for: waiting,
                concern,
                attempts,
                read_per_minute: u64::from(rates[0]) % MOST_PER_MINUTE,
                processed_per_minute: u64::from(rates[1]) % MOST_PER_MINUTE,
                trend,
                failing: failing.map(|(sequence, sub_sequence)| RecordPosition { sequence: SequenceNumber::from(u128::from(sequence)), sub_sequence }),
                ..ShardReport::new(Timestamp::from_millis(secs * 1000))
            };
            let text = report.to_string();
            prop_assert!(text.len() <= ShardReport::LONGEST);
            prop_assert_eq!(text.parse::<ShardReport>().unwrap(), report);
        }

        #[test]
        fn no_text_makes_panic(text in ".{0,220}") {
            let _ = text.parse::<ShardReport>();
        }
    }
}
