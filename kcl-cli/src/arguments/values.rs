//! The values of options, read from their texts.

use std::time::Duration;

use kcl_core::types::Timestamp;

/// Where a tail begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TailStart {
    Latest,
    Earliest,
    At(kcl_core::types::Timestamp),
    Ago(Duration),
}

/// The bounds of durations: a look every microsecond would use up the table, and clocks do not reach for ever.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let secs: f64 = text
        .parse()
        .map_err(|_| "it is not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(secs) {
        Ok(duration) if (SHORTEST..=LONGEST).contains(&duration) => Ok(duration),
        _ => Err("it is from a hundredth of a second to a year".to_owned()),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    match number.is_finite() && number > 0.0 {
        true => Ok(number),
        false => Err("it must be above zero".to_owned()),
    }
}

pub(super) fn price(text: &str) -> Result<(String, f64), String> {
    let (name, dollars) = text.split_once('=').ok_or("it is not NAME=DOLLARS")?;
    let dollars: f64 = dollars
        .parse()
        .map_err(|_| "the price is not a number".to_owned())?;
    match dollars.is_finite() && dollars >= 0.0 {
        true => Ok((name.to_owned(), dollars)),
        false => Err("a price is zero or more".to_owned()),
    }
}

pub(super) fn tail_start(text: &str) -> Result<TailStart, String> {
    match text {
        "latest" => return Ok(TailStart::Latest),
        "earliest" => return Ok(TailStart::Earliest),
        _ => {}
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(TailStart::Ago(ago));
    }
    datetime(text).map(TailStart::At).map_err(|_| {
        "it is none of latest, earliest, a time as 2027-01-31T12:00:00Z and a while as 10m".to_owned()
    })
}

pub(super) fn datetime(text: &str) -> Result<Timestamp, String> {
    let time = humantime::parse_rfc3339_weak(text);
    let since = time
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let millis = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    let time = millis.map(Timestamp::from_millis);
    time.ok_or_else(|| "it is no time as 2027-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_of_a_tail_is_read() {
        assert_eq!(tail_start("latest"), Ok(TailStart::Latest));
        assert_eq!(tail_start("90s"), Ok(TailStart::Ago(Duration::from_secs(90))));
        let at = Timestamp::from_millis(1_800_000_000_000);
        assert_eq!(tail_start("2027-01-15T08:00:00Z"), Ok(TailStart::At(at)));
        assert!(tail_start("yesterday").is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("nan").is_err());
        assert!(seconds("0.000001").is_err() && seconds("1e18").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(positive("inf").is_err() && positive("0").is_err());
        assert_eq!(price("shard_hour=0.018"), Ok(("shard_hour".to_owned(), 0.018)));
        assert!(price("shard_hour").is_err() && price("a=-1").is_err());
    }
}
