//! The cases in which the service disturbs a reader. Each fails by panicking.

use std::time::Duration;

use kcl_core::clock::ClockExt as _;
use kcl_core::source::StartPosition;

use super::reading::{linger, open, put_numbers, read, read_until, two_shards};
use super::{Disturbance, SourceFixture};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A disturbance that does not apply is reported, so that no reader takes it for proven.
fn does_not_apply(what: impl std::fmt::Debug) {
    println!("does not apply to this source: {what:?}");
}

/// Reads a part of what there is, is disturbed, and reads the rest and what came meanwhile: once each, and in order.
async fn goes_on_after(fixture: &dyn SourceFixture, disturbance: Disturbance) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..6).await;
    let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
    let first = read_until(fixture, &mut *reader, 3, |seen| seen.records.len() >= 3).await;
    assert_eq!(first.payloads(), numbers(0..3));
    if !fixture.disturb(disturbance).await {
        return does_not_apply(disturbance);
    }
    put_numbers(fixture, &shard, 6..9).await;
    assert_eq!(read(fixture, &mut *reader, 6).await, numbers(3..9));
    assert!(linger(fixture, &mut *reader).await.records.is_empty());

    // And where there is nothing to read when it happens.
    fixture.disturb(disturbance).await;
    let quiet = linger(fixture, &mut *reader).await;
    assert!(quiet.records.is_empty() && quiet.ends.is_empty());
    put_numbers(fixture, &shard, 9..10).await;
    assert_eq!(read(fixture, &mut *reader, 1).await, numbers(9..10));
}

/// A throttle is an error that passes, and costs no record.
pub async fn a_throttled_reader_goes_on_where_it_was(fixture: &dyn SourceFixture) {
    goes_on_after(fixture, Disturbance::Throttle).await;
}

/// An expired iterator is replaced by one at the same place.
pub async fn a_reader_whose_iterator_expired_goes_on_where_it_was(fixture: &dyn SourceFixture) {
    goes_on_after(fixture, Disturbance::Expiry).await;
}

/// A place that was resolved stays that place, also if the iterator for it expired before it was used.
pub async fn latest_stays_where_it_was_though_its_iterator_expired(fixture: &dyn SourceFixture) {
    let [shard, _] = two_shards(fixture).await;
    put_numbers(fixture, &shard, 0..2).await;
    // Some sources can go back to a whole second only.
    fixture.clock().sleep(Duration::from_millis(2100)).await;
    let mut reader = open(fixture, &shard.id, StartPosition::Latest).await;
    put_numbers(fixture, &shard, 2..4).await;
    if !fixture.disturb(Disturbance::Expiry).await {
        return does_not_apply(Disturbance::Expiry);
    }
    assert_eq!(read(fixture, &mut *reader, 2).await, numbers(2..4));
}

/// An answer that stops half-way, or a subscription on which nothing comes any more, is given up by the source's own deadline.
pub async fn a_half_open_answer_is_given_up_and_nothing_is_lost(fixture: &dyn SourceFixture) {
    goes_on_after(fixture, Disturbance::Silence).await;
}

/// Where only one reader may have a shard at a time, one that is cut off by another waits until it may have it again.
pub async fn a_reader_whose_shard_is_in_use_waits_and_goes_on_where_it_was(fixture: &dyn SourceFixture) {
    goes_on_after(fixture, Disturbance::Takeover).await;
}

/// The reader pauses for longer than iterators and subscriptions live. That is no error.
pub async fn a_reader_goes_on_exactly_after_a_long_pause(fixture: &dyn SourceFixture) {
    let Some(lifetime) = fixture.lifetime() else {
        return does_not_apply("a long pause");
    };
    for is_told in [true, false] {
        let [shard, other] = two_shards(fixture).await;
        let shard = if is_told { shard } else { other };
        put_numbers(fixture, &shard, 0..3).await;
        let mut reader = open(fixture, &shard.id, StartPosition::TrimHorizon).await;
        assert_eq!(read(fixture, &mut *reader, 3).await, numbers(0..3));
        if is_told {
            reader.pause();
        }
        put_numbers(fixture, &shard, 3..5).await;
        fixture.clock().sleep(lifetime * 5 / 2).await;
        put_numbers(fixture, &shard, 5..7).await;
        assert_eq!(read(fixture, &mut *reader, 4).await, numbers(3..7));
        assert!(linger(fixture, &mut *reader).await.records.is_empty());
    }
}

/// The reader pauses for longer than iterators and subscriptions live, and goes on as if nothing was.
pub async fn a_reader_outlives_what_it_reads_by(fixture: &dyn SourceFixture) {
    let Some(lifetime) = fixture.lifetime() else {
        return does_not_apply("a long life");
    };
    let [shard, _] = two_shards(fixture).await;
    let mut reader = open(fixture, &shard.id, StartPosition::Latest).await;
    for number in 0..10 {
        put_numbers(fixture, &shard, number..number + 1).await;
        assert_eq!(read(fixture, &mut *reader, 1).await, numbers(number..number + 1));
        fixture.clock().sleep(lifetime / 4).await;
    }
}
