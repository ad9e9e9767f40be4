use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn at(n: u128) -> RecordPosition {
    RecordPosition::plain(SequenceNumber::from(n))
}

fn base_at(n: u128) -> Position {
    match n {
        0 => Position::TrimHorizon,
        n => Position::Record(at(n)),
    }
}

/// The attribute of a row at `base`, of the records that follow it.
fn ahead(base: u128, finished: &[bool]) -> Option<FinishedAhead> {
    let delivered: Vec<_> = (base + 1..).map(at).zip(finished.iter().copied()).collect();
    let delivered = delivered.iter().map(|(position, finished)| (position, *finished));
    FinishedAhead::of(&base_at(base), true, delivered)
}

fn any_position() -> impl Strategy<Value = RecordPosition> {
    let sub_sequence = prop_oneof![Just(0), 0..300_u64, any::<u64>()];
    ("[0-9]{1,129}", sub_sequence).prop_map(|(digits, sub_sequence)| RecordPosition {
        sequence: digits.parse().unwrap(),
        sub_sequence,
    })
}

fn any_ahead() -> impl Strategy<Value = FinishedAhead> {
    let fingerprints =
        prop::collection::btree_set(0..1_u32 << FINGERPRINT_BITS, 0..=FinishedAhead::MOST_UNFINISHED);
    let base = prop_oneof![Just(None), any_position().prop_map(Some)];
    (base, any_position(), any::<bool>(), fingerprints).prop_filter_map(
        "an end before the base",
        |(base, end, is_unpacked, unfinished)| {
            let base = base.map_or(Position::TrimHorizon, Position::Record);
            let is_ahead = !base.covers(&end);
            let parts = || AheadParts {
                base,
                end,
                is_unpacked,
                unfinished: unfinished.into_iter().collect(),
            };
            is_ahead.then(|| FinishedAhead(Arc::new(parts())))
        },
    )
}

proptest! {
    #[test]
    fn encoding_fits_and_reads_back_the_same(ahead in any_ahead()) {
        let bytes = ahead.encode();
        prop_assert!(bytes.len() <= FinishedAhead::LARGEST_ENCODING, "{} bytes", bytes.len());
        let back = FinishedAhead::decode(&bytes).unwrap();
        prop_assert_eq!(back.encode(), bytes);
        prop_assert_eq!(back, ahead);
    }

    /// Everything unfinished comes again; of what is finished up to the end only records that share a fingerprint do.
    #[test]
    fn no_unfinished_record_is_left_out(
        base in 0_u128..3,
        finished in prop::collection::vec(prop::bool::weighted(0.6), 0..1500),
    ) {
        let ahead = ahead(base, &finished);
        let place = |n: u128| usize::try_from(n - base - 1).unwrap();
        let first = finished.split(|finished| *finished).next().map_or(0, <[bool]>::len);
        prop_assert_eq!(ahead.is_some(), finished.contains(&true) && first <= FinishedAhead::MOST_UNFINISHED);
        let Some(ahead) = ahead else { return Ok(()) };
        let through = (base + 1..).find(|n| at(*n) == *ahead.end()).unwrap();
        let records = base + 1..=base + finished.len() as u128 + 3;
        let exceptions: BTreeSet<_> = records
            .clone()
            .filter(|n| *n <= through && !finished[place(*n)])
            .map(|n| FinishedAhead::fingerprint(&at(n)))
            .collect();
        for n in records {
            let is_finished = finished.get(place(n)).is_some_and(|finished| *finished);
            let collides = exceptions.contains(&FinishedAhead::fingerprint(&at(n)));
            prop_assert_eq!(ahead.covers(&at(n)), is_finished && n <= through && !collides, "record {}", n);
        }
        let open_before = |place| finished.iter().take(place).filter(|finished| !**finished).count();
        prop_assert!(open_before(place(through)) <= FinishedAhead::MOST_UNFINISHED);
        let mut behind = finished.iter().enumerate().skip(place(through) + 1);
        if let Some((next, _)) = behind.find(|(_, finished)| **finished) {
            prop_assert!(open_before(next) > FinishedAhead::MOST_UNFINISHED, "the end is short for no reason");
        }
        let bytes = ahead.encode();
        prop_assert!(bytes.len() <= FinishedAhead::LARGEST_ENCODING);
        prop_assert_eq!(FinishedAhead::decode(&bytes), Ok(ahead));
    }

    #[test]
    fn moved_checkpoint_keeps_exactly_what_is_behind(
        finished in prop::collection::vec(any::<bool>(), 1..40),
        by in 0_u128..45,
    ) {
        let Some(before) = ahead(2, &finished) else { return Ok(()) };
        let base = base_at(2 + by);
        let after = before.rebased(&base);
        for n in 1..50 {
            let is_kept = after.as_ref().is_some_and(|after| after.covers(&at(n)));
            prop_assert_eq!(is_kept, before.covers(&at(n)) && !base.covers(&at(n)));
        }
        prop_assert_eq!(before.rebased(&base_at(1)), None, "the checkpoint went back");
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let bytes = [&[VERSION, 1][..], &bytes].concat();
        if let Ok(ahead) = FinishedAhead::decode(&bytes) {
            prop_assert_eq!(ahead.encode(), bytes);
        }
    }
}

/// Rows hold it: another hash or another layout needs another version.
#[test]
fn encoding_of_version_one_stays() {
    let ahead = ahead(4, &[false, true, true, false, true, false]).unwrap();
    let fingerprints = [5, 8].map(|n| FinishedAhead::fingerprint(&at(n)));
    assert_eq!(fingerprints, [13_596_743, 431_618]);
    let bytes = [1, 3, 1, 0x4f, 0, 1, 0x9f, 0, 0, 2, 13, 44, 5, 196, 113, 34, 0];
    assert_eq!(ahead.encode(), bytes);
}

#[test]
fn largest_attribute_fits_into_one_kibibyte() {
    let long = |digit: &str| RecordPosition {
        sequence: digit.repeat(129).parse().unwrap(),
        sub_sequence: u64::MAX,
    };
    let most = FinishedAhead::MOST_UNFINISHED as u32;
    for from in [0, (1 << FINGERPRINT_BITS) - most] {
        let ahead = FinishedAhead(Arc::new(AheadParts {
            base: Position::Record(long("1")),
            end: long("2"),
            is_unpacked: true,
            unfinished: (from..from + most).collect(),
        }));
        let bytes = ahead.encode();
        assert!(bytes.len() <= FinishedAhead::LARGEST_ENCODING);
        assert_eq!(FinishedAhead::decode(&bytes), Ok(ahead));
    }
}

#[test]
fn oldest_gaps_come_first_where_not_all_fit() {
    let every_other: Vec<_> = (0..2000).map(|n| n % 2 == 1).collect();
    let ahead = ahead(0, &every_other).unwrap();
    assert_eq!(ahead.end(), &at(2 * FinishedAhead::MOST_UNFINISHED as u128));
    let left_out = (1..=2000).filter(|n| ahead.covers(&at(*n))).count();
    assert!(
        (FinishedAhead::MOST_UNFINISHED - 2..=FinishedAhead::MOST_UNFINISHED).contains(&left_out),
        "{left_out}"
    );
}

#[test]
fn attribute_is_void_beside_other_checkpoint_or_mode() {
    let ahead = ahead(4, &[false, true]).unwrap();
    assert!(ahead.belongs_to(&base_at(4), true));
    assert!(
        !ahead.belongs_to(&base_at(3), true),
        "the checkpoint was moved back"
    );
    assert!(!ahead.belongs_to(&base_at(5), true));
    assert!(
        !ahead.belongs_to(&base_at(4), false),
        "positions mean other records"
    );
}

#[test]
fn position_without_place_has_no_attribute() {
    let delivered = || [(at(1), false), (at(2), true)];
    for base in [Position::Latest, Position::AtTimestamp, Position::ShardEnd] {
        let delivered = delivered();
        let delivered = delivered.iter().map(|(position, finished)| (position, *finished));
        assert_eq!(FinishedAhead::of(&base, true, delivered), None);
    }
}

#[test]
fn leading_zeros_change_no_fingerprint() {
    let padded = RecordPosition::plain("0042".parse().unwrap());
    assert_eq!(
        FinishedAhead::fingerprint(&padded),
        FinishedAhead::fingerprint(&at(42))
    );
    let part = RecordPosition {
        sub_sequence: 1,
        ..at(42)
    };
    assert_ne!(
        FinishedAhead::fingerprint(&part),
        FinishedAhead::fingerprint(&at(42))
    );
}

/// Records that follow each other are spread over all fingerprints.
#[test]
fn fingerprints_of_neighbours_rarely_collide() {
    let first = 49_680_416_556_756_428_880_067_349_872_691_u128;
    let fingerprints: BTreeSet<_> = (first..first + 4096)
        .map(|n| FinishedAhead::fingerprint(&at(n)))
        .collect();
    // Chance makes one of two.
    assert!(fingerprints.len() >= 4090, "{}", fingerprints.len());
}
