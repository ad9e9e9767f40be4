//! Durations and sizes as people read them.

use std::time::Duration;

/// A duration in its two largest units: `0.3s`, `12s`, `3m12s`, `2h05m`, `4d03h`.
///
/// ```
/// use std::time::Duration;
/// use kcl_operations::duration_text;
///
/// assert_eq!(duration_text(Duration::from_millis(340)), "0.3s");
/// assert_eq!(duration_text(Duration::from_secs(192)), "3m12s");
/// assert_eq!(duration_text(Duration::from_secs(7_500)), "2h05m");
/// assert_eq!(duration_text(Duration::from_secs(356_400)), "4d03h");
/// ```
pub fn duration_text(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    match secs {
        0..10 => format!("{}.{}s", secs, duration.subsec_millis() / 100),
        10..60 => format!("{secs}s"),
        60..3600 => format!("{minutes}m{:02}s", secs % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A size in the largest binary unit that leaves at least one: `980 B`, `1.5 KiB`, `2.0 MiB`.
///
/// ```
/// use kcl_operations::bytes_text;
///
/// assert_eq!(bytes_text(980.0), "980 B");
/// assert_eq!(bytes_text(1_536.0), "1.5 KiB");
/// ```
pub fn bytes_text(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024.0 {
        return format!("{bytes:.0} B");
    }
    let mut rest = bytes / 1024.0;
    let mut unit = 0;
    while rest >= 1024.0 && unit + 1 < UNITS.len() {
        rest /= 1024.0;
        unit += 1;
    }
    format!("{rest:.1} {}", UNITS[unit])
}

/// A number of things: `1 shard`, `2 shards`.
///
/// ```
/// assert_eq!(kcl_operations::count_text(1, "shard"), "1 shard");
/// assert_eq!(kcl_operations::count_text(0, "shard"), "0 shards");
/// ```
pub fn count_text(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// The names, as a sentence lists them: `a`, `a and b`, `a, b and c`.
pub(crate) fn listed<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}
