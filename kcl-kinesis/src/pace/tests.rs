use super::*;
use crate::adaptive_rate::MIN_RATE;
use proptest::prelude::*;

const MIB: u64 = 1024 * 1024;
const LONG: Duration = Duration::from_secs(60);

fn read(records: usize, bytes: u64, behind_millis: Option<u64>) -> ReadResult {
    ReadResult {
        records,
        bytes,
        behind: behind_millis.map(Duration::from_millis),
    }
}

#[test]
fn the_defaults_give_the_pace_of_the_service() {
    let rows = [
        ("idle", read(0, 0, Some(0)), 300),
        ("idle, and the service does not tell", read(0, 0, None), 300),
        ("nothing here, but more ahead", read(0, 0, Some(5000)), 200),
        ("the last few records", read(3, 100, Some(0)), 200),
        (
            "a backlog of small records",
            read(10_000, 1000, Some(60_000)),
            200,
        ),
        ("one full MiB", read(1, MIB, Some(60_000)), 500),
        ("the largest answer", read(10, 10 * MIB, Some(60_000)), 5000),
    ];
    for (case, read, millis) in rows {
        let wait = wait_after(read, Duration::ZERO, &PollingSettings::default(), FULL_RATE);
        assert_eq!(wait, Duration::from_millis(millis), "{case}");
    }
}

#[test]
fn settings_out_of_range_become_the_nearest_valid() {
    let broken = PollingSettings {
        idle_interval: Duration::ZERO,
        request_deadline: Duration::ZERO,
        reads_per_second: 0,
        bytes_per_second: 0,
        ..PollingSettings::default()
    };
    let mended = broken.in_range();
    assert_eq!(mended.idle_interval, Duration::from_millis(200));
    assert_eq!(mended.request_deadline, Duration::from_millis(100));
    assert_eq!((mended.reads_per_second, mended.bytes_per_second), (1, 1));
    let mut pace = Pace::new(broken, AdaptiveRate::default());
    assert_eq!(
        pace.wait_after(read(1, 2, None), Moment::ZERO),
        Duration::from_secs(2)
    );
}

#[test]
fn silent_shard_is_read_ever_less_within_limit() {
    let mut pace = Pace::new(PollingSettings::default(), AdaptiveRate::default());
    let nothing = read(0, 0, Some(0));
    let rows = [
        (1_000, nothing, 300),
        (10_000, nothing, 300),
        (16_000, nothing, 500),
        (31_000, nothing, 1000),
        (3_600_000, nothing, 1000),
        (3_601_000, read(1, 10, Some(0)), 200),
        (3_602_000, nothing, 300),
        (3_617_000, nothing, 500),
    ];
    for (now, read, millis) in rows {
        let wait = pace.wait_after(read, at(now));
        assert_eq!(wait, Duration::from_millis(millis), "at {now}");
    }
}

fn at(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

#[test]
fn caught_up_shard_is_read_as_target_allows() {
    let settings = PollingSettings {
        lag_target: Some(Duration::from_secs(60)),
        ..PollingSettings::default()
    };
    let rows = [
        ("idle", read(0, 0, Some(0)), 30_000),
        ("idle, and the service does not tell", read(0, 0, None), 30_000),
        ("the last records", read(5, 100, Some(0)), 30_000),
        ("half a minute behind", read(5, 100, Some(30_000)), 15_000),
        ("far behind", read(5, 100, Some(600_000)), 200),
        ("records, and the service does not tell", read(5, 100, None), 200),
    ];
    for (case, read, millis) in rows {
        let wait = wait_after(read, Duration::ZERO, &settings, FULL_RATE);
        assert_eq!(wait, Duration::from_millis(millis), "{case}");
    }
}

/// Readers of one shard that answers five reads in each second and refuses the others, for ten minutes from this moment on: for
/// each the reads that were answered in the last five minutes, and how many were refused.
fn readers(count: usize) -> (Vec<u32>, u32) {
    const ALLOWED: u32 = 5;
    let behind = read(10, 100, Some(60_000));
    let mut paces = vec![Pace::new(PollingSettings::default(), AdaptiveRate::default()); count];
    let mut next: Vec<u64> = (0..count as u64).map(|number| number * 37).collect();
    let (mut answered, mut refused) = (vec![0; count], 0);
    let (mut second, mut used) = (0, 0);
    loop {
        let (reader, now) = (0..count)
            .map(|reader| (reader, next[reader]))
            .min_by_key(|(_, now)| *now)
            .unwrap();
        if now >= 600_000 {
            return (answered, refused);
        }
        if now / 1000 > second {
            (second, used) = (now / 1000, 0);
        }
        let counts = now >= 300_000;
        if used < ALLOWED {
            used += 1;
            answered[reader] += u32::from(counts);
            let wait = paces[reader].wait_after(behind, at(now));
            next[reader] = now + wait.as_millis() as u64;
        } else {
            refused += u32::from(counts);
            paces[reader].throttled(at(now));
            next[reader] = now + 200;
        }
    }
}

#[test]
fn applications_share_one_shard_with_few_refusals() {
    let (alone, refused) = readers(1);
    assert_eq!((alone[0], refused), (1500, 0));
    for count in 2..=5 {
        let (answered, refused) = readers(count);
        let all: u32 = answered.iter().sum();
        assert!(
            all >= 1000,
            "{count}: two thirds of what the shard gives, {answered:?}"
        );
        let fair = all / count as u32;
        for got in &answered {
            assert!(
                (fair * 2 / 3..=fair * 3 / 2).contains(got),
                "{count}: {answered:?}"
            );
        }
        assert!(refused * 5 <= all, "{count}: {refused} refused, {all} answered");
    }
}

fn any_settings() -> impl Strategy<Value = PollingSettings> {
    let lag_target = proptest::option::of((0_u64..200_000).prop_map(Duration::from_millis));
    (0_u64..5000, 1_u32..=50, 1_u64..=20 * MIB, lag_target).prop_map(
        |(idle, reads_per_second, bytes_per_second, lag_target)| {
            let settings = PollingSettings {
                idle_interval: Duration::from_millis(idle),
                reads_per_second,
                bytes_per_second,
                lag_target,
                ..PollingSettings::default()
            };
            settings.in_range()
        },
    )
}

fn any_read() -> impl Strategy<Value = ReadResult> {
    (
        0_usize..10_000,
        0..=10 * MIB,
        proptest::option::of(0_u64..100_000),
    )
        .prop_map(|(records, bytes, behind)| read(records, if records == 0 { 0 } else { bytes }, behind))
}

proptest! {
    #[test]
    fn reader_at_the_pace_exceeds_no_limit(
        settings in any_settings(),
        reads in proptest::collection::vec(any_read(), 1..50),
    ) {
        let spent: Duration = reads.iter().map(|read| wait_after(*read, Duration::ZERO, &settings, FULL_RATE)).sum();
        let bytes: u64 = reads.iter().map(|read| read.bytes).sum();
        // Each wait is cut to whole nanoseconds.
        let seconds = spent.as_secs_f64() + 1e-6;
        prop_assert!(reads.len() as f64 <= seconds * f64::from(settings.reads_per_second) + 1e-3);
        prop_assert!(bytes as f64 <= seconds * settings.bytes_per_second as f64 + 1.0 + 1e-6 * 20.0 * MIB as f64);
    }

    #[test]
    fn only_empty_read_at_tip_waits_idle_interval(settings in any_settings(), read in any_read()) {
        let hurried = PollingSettings { idle_interval: Duration::ZERO, quiet_interval: LONG, lag_target: None, ..settings };
        let patient = PollingSettings { idle_interval: LONG, ..hurried };
        let wait = |settings| wait_after(read, Duration::ZERO, settings, FULL_RATE);
        let differs = wait(&hurried) != wait(&patient);
        prop_assert_eq!(differs, read.caught_up());
    }

    #[test]
    fn more_bytes_never_mean_a_shorter_wait(settings in any_settings(), read in any_read(), more in 0..10 * MIB) {
        let larger = ReadResult { bytes: read.bytes + more, ..read };
        let wait = |read| wait_after(read, Duration::ZERO, &settings, FULL_RATE);
        prop_assert!(wait(larger) >= wait(read));
    }

    #[test]
    fn a_smaller_share_never_means_a_shorter_wait(
        settings in any_settings(), read in any_read(), rate in MIN_RATE..=FULL_RATE, less in 0_u32..FULL_RATE,
    ) {
        let smaller = rate.saturating_sub(less).max(MIN_RATE);
        let wait = |rate| wait_after(read, Duration::ZERO, &settings, rate);
        prop_assert!(wait(smaller) >= wait(rate));
    }

    #[test]
    fn pace_makes_no_record_older_than_target(settings in any_settings(), read in any_read()) {
        let at_once = PollingSettings { lag_target: None, ..settings };
        let wait = |settings| wait_after(read, Duration::ZERO, settings, FULL_RATE);
        let (patient, hurried) = (wait(&settings), wait(&at_once));
        prop_assert!(patient >= hurried);
        if patient > hurried {
            let age = read.behind.unwrap_or_default() + patient;
            prop_assert!(age <= settings.lag_target.unwrap_or_default());
        }
    }
}
