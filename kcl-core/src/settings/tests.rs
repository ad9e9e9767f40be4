use super::rules::DAY;
use super::*;

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Settings::default().validate(), Ok(()));
}

#[test]
fn every_violation_is_reported_at_once() {
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_millis(1);
    settings.assignment.max_leases = Some(0);
    settings.assignment.max_throughput = Some(ByteSize::b(0));
    settings.reading.max_batch_records = 0;
    settings.memory.prefetch_batches = 99;
    let violations = settings.validate().unwrap_err();
    // Neither the discovery interval nor the scans fit such a failover time, which are violations of their own.
    assert_eq!(violations.violations().len(), 7, "{violations}");
}

#[test]
fn every_duration_without_end_is_refused() {
    let mut without_end = Settings::default();
    without_end.leases.failover_time = Duration::MAX;
    without_end.checkpoints.interval = Duration::MAX;
    without_end.reading.stall_timeout = Duration::MAX;
    without_end.processing.slow_callback = Duration::MAX;
    without_end.checkpoints.slow_after = Duration::MAX;
    without_end.processing.tick_interval = Duration::MAX;
    without_end.leases.parent_poll_interval = Duration::MAX;
    without_end.leases.discovery_interval = Duration::MAX;
    without_end.leases.handoff_timeout = Duration::MAX;
    without_end.shutdown.drain_timeout = Duration::MAX;
    without_end.start.timeout = Duration::MAX;
    without_end.leases.forget_streams_after = Some(Duration::MAX);
    let violations = without_end.validate().unwrap_err();
    // The discovery interval is at most the failover time, which is refused itself.
    assert_eq!(violations.violations().len(), 11, "{violations}");
    let written = serde_json::to_string(&without_end).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), without_end);
}

#[test]
fn durations_in_a_file_have_units() {
    let file = r#"{"leases": {"failover_time": "3s", "forget_streams_after": "7d"}, "checkpoints": {"interval": "250ms"}}"#;
    let settings: Settings = serde_json::from_str(file).unwrap();
    let mut expected = Settings::default();
    expected.leases.failover_time = Duration::from_secs(3);
    expected.checkpoints.interval = Duration::from_millis(250);
    expected.leases.forget_streams_after = Some(7 * DAY);
    assert_eq!(settings, expected);
    let written = serde_json::to_string(&settings).unwrap();
    assert!(
        written.contains(r#""failover_time":"3s""#) && !written.contains("secs"),
        "{written}"
    );
    assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), settings);
    for wrong in ["3", "\"3\"", "\"3 lightyears\"", "null"] {
        let file = format!(r#"{{"leases": {{"failover_time": {wrong}}}}}"#);
        let error = serde_json::from_str::<Settings>(&file).unwrap_err().to_string();
        assert!(error.contains("like \"3s\""), "{wrong}: {error}");
    }
}

#[test]
fn a_misspelt_assignment_setting_is_refused() {
    for file in [
        r#"{"assignment": {"max_move": 1}}"#,
        r#"{"assignment": {"strategy": {"throughput": {"band": 1, "damping_percent": 60, "band_percent": 10}}}}"#,
    ] {
        assert!(serde_json::from_str::<Settings>(file).is_err(), "{file}");
    }
}

#[test]
fn impossible_batching_is_refused_with_every_reason() {
    let mut settings = Settings::default();
    let file = r#"{"processing": {"batching": {"max_records": 500, "max_bytes": "1MiB"}}}"#;
    let read: Settings = serde_json::from_str(file).unwrap();
    settings.processing.batching = Some(Batching {
        max_records: 500,
        max_bytes: ByteSize::mib(1),
        ..Batching::default()
    });
    assert_eq!((read.validate(), &read), (Ok(()), &settings));
    settings.processing.batching = Some(Batching {
        max_records: 0,
        max_bytes: ByteSize::gib(1),
        max_wait: Duration::ZERO,
    });
    let violations = settings.validate().unwrap_err();
    assert_eq!(violations.violations().len(), 3, "{violations}");
    for name in ["max_records", "max_bytes", "max_wait"] {
        let path = format!("processing.batching.{name}");
        assert!(violations.to_string().contains(&path), "{violations}");
    }
}

#[test]
fn a_handoff_timeout_of_zero_is_refused() {
    let mut settings = Settings::default();
    settings.leases.handoff_timeout = Duration::ZERO;
    assert!(settings.validate().is_err());
}

#[test]
fn settings_file_may_leave_out_but_not_misspell() {
    let settings: Settings = serde_json::from_str(r#"{"assignment": {"max_leases": 7}}"#).unwrap();
    assert_eq!(settings, {
        let mut settings = Settings::default();
        settings.assignment.max_leases = Some(7);
        settings
    });
    for misspelt in [r#"{"lease": {}}"#, r#"{"assignment": {"max_lease": 7}}"#] {
        assert!(serde_json::from_str::<Settings>(misspelt).is_err());
    }
}

#[test]
fn sizes_in_a_file_have_units() {
    let file = r#"{"memory": {"budget": "64MiB"}, "assignment": {"max_throughput": "2 MiB"}}"#;
    let settings: Settings = serde_json::from_str(file).unwrap();
    assert_eq!(settings.memory.budget, ByteSize::mib(64));
    assert_eq!(settings.assignment.max_throughput_kib(), Some(2048));
    let written = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), settings);
}

/// A budget of 100,000,001 bytes once became one of "95.4 MiB".
#[test]
fn sizes_are_written_exactly() {
    for (bytes, text) in [
        (ByteSize::mib(256).as_u64(), "256MiB"),
        (1025 * 1024, "1025KiB"),
        (100_000_001, "100000001B"),
        (0, "0B"),
        (1 << 50, "1024TiB"),
    ] {
        let mut settings = Settings::default();
        settings.memory.budget = ByteSize::b(bytes);
        settings.assignment.max_throughput = Some(ByteSize::b(bytes));
        let written = serde_json::to_value(&settings).unwrap();
        assert_eq!(written["memory"]["budget"], text);
        assert_eq!(written["assignment"]["max_throughput"], text);
        assert_eq!(serde_json::from_value::<Settings>(written).unwrap(), settings);
    }
}

#[test]
fn violation_names_setting_by_path_in_file() {
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::ZERO;
    settings.memory.prefetch_batches = 0;
    settings.metrics.top_shards = 5000;
    let violations = settings.validate().unwrap_err().to_string();
    for path in [
        "leases.failover_time",
        "memory.prefetch_batches",
        "metrics.top_shards",
    ] {
        assert!(violations.contains(path), "{violations}");
        assert!(!violations.contains(&format!(".{path}")), "{violations}");
    }
}
