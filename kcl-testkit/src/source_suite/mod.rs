//! The contract of every [`StreamSource`], as tests that any implementation can run.
//!
//! Each case is a free function over a [`SourceFixture`]; [`stream_source_suite!`](crate::stream_source_suite) makes one test of each.
//! The cases take all time from the fixture's clock: with paused time they run at once, against a server they really wait, and
//! never longer than [`PATIENCE`] for anything.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a conformance case fails by panicking"
)]

mod cases;
mod disturbed;
mod reading;

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kcl_core::clock::Clock;
use kcl_core::source::{Shard, StreamSource};
use kcl_core::types::{SequenceNumber, ShardId};
use kcl_lease_memory::MemoryStream;

pub use cases::*;
pub use disturbed::*;

/// How long a case waits for something that must happen: two minutes of the fixture's time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Why a fixture could not do what a case asked for.
pub type FixtureError = Box<dyn Error + Send + Sync>;

/// A disturbance of readers, as a service makes now and then. A reader gets over it by itself, or with errors after which a retry is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// The next calls are throttled.
    Throttle,
    /// The iterators that readers have are good no more.
    Expiry,
    /// An answer stops half-way, or nothing comes any more on a connection that stays open.
    Silence,
    /// Another reader takes the first shard, and for a while whoever wants it back is refused: `ResourceInUseException` of enhanced fan-out.
    Takeover,
}

/// A new stream with two open shards and no records, and the means to write to it.
#[async_trait]
pub trait SourceFixture: Send + Sync {
    /// The source under test.
    fn source(&self) -> &dyn StreamSource;

    /// The clock by which the case waits.
    fn clock(&self) -> &dyn Clock;

    /// Whether two readers can read one shard at a time. Readers by enhanced fan-out that are one consumer cannot: the newer subscription
    /// ends the older.
    fn shares_shards(&self) -> bool {
        true
    }

    /// Disturbs every reader. Returns `false` if there is no such disturbance with this source: then a case about it proves nothing, and
    /// prints that.
    async fn disturb(&self, disturbance: Disturbance) -> bool {
        let _ = disturbance;
        false
    }

    /// How long an iterator or a subscription lives, where cases can wait for several such times.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// Puts a record into the open shard of this hash key.
    ///
    /// # Errors
    ///
    /// Whatever keeps the fixture from doing so; the case fails with it.
    async fn put(
        &self,
        partition_key: &str,
        explicit_hash_key: u128,
        data: Bytes,
    ) -> Result<SequenceNumber, FixtureError>;

    /// Splits a shard in the middle of its hash keys, and returns once the children take records.
    ///
    /// # Errors
    ///
    /// Whatever keeps the fixture from doing so; the case fails with it.
    async fn split(&self, shard: &Shard) -> Result<(), FixtureError>;

    /// Merges two adjacent shards, and returns once the child takes records.
    ///
    /// # Errors
    ///
    /// Whatever keeps the fixture from doing so; the case fails with it.
    async fn merge(&self, a: &ShardId, b: &ShardId) -> Result<(), FixtureError>;
}

/// A stream in memory is its own fixture; it must be new and have two shards.
#[async_trait]
impl SourceFixture for MemoryStream {
    fn source(&self) -> &dyn StreamSource {
        self
    }

    fn clock(&self) -> &dyn Clock {
        Self::clock(self)
    }

    async fn disturb(&self, disturbance: Disturbance) -> bool {
        match disturbance {
            Disturbance::Throttle => self.set_reads_per_second(Some(1)),
            Disturbance::Expiry => self.expire_iterators(),
            Disturbance::Silence | Disturbance::Takeover => return false,
        }
        true
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(self.iterator_lifetime())
    }

    async fn put(
        &self,
        partition_key: &str,
        explicit_hash_key: u128,
        data: Bytes,
    ) -> Result<SequenceNumber, FixtureError> {
        Ok(self.put_with_hash_key(partition_key, explicit_hash_key, data)?.1)
    }

    async fn split(&self, shard: &Shard) -> Result<(), FixtureError> {
        Ok(Self::split(self, &shard.id).map(|_| ())?)
    }

    async fn merge(&self, a: &ShardId, b: &ShardId) -> Result<(), FixtureError> {
        Ok(Self::merge(self, a, b).map(|_| ())?)
    }
}

/// Makes one test of each case of the [`source_suite`](crate::source_suite).
///
/// The argument is an async function without parameters that returns a new [`SourceFixture`]: a stream of its own for each test.
/// An attribute before it replaces `#[tokio::test]`. Where each test needs more around it, `each` hands the names of all
/// cases to a macro of yours: `stream_source_suite!(each my_cases!)`.
///
/// ```
/// mod my_source {
///     use kcl_lease_memory::MemoryStream;
///     use kcl_testkit::stream_source_suite;
///
///     async fn two_shards() -> MemoryStream {
///         MemoryStream::builder("suite").shards(2).build()
///     }
///
///     stream_source_suite!(#[tokio::test(start_paused = true)] two_shards);
/// }
/// ```
#[macro_export]
macro_rules! stream_source_suite {
    (each $stamp:ident!) => { $crate::stream_source_suite! { @all $stamp! } };
    ($make:path) => { $crate::stream_source_suite!(#[tokio::test] $make); };
    (#[$test:meta] $make:path) => { $crate::stream_source_suite! { @all #[$test] $make } };
    (@all $($setup:tt)*) => {
        $crate::stream_source_suite! { @cases [$($setup)*]
            a_record_arrives_as_it_was_put
            trim_horizon_reads_everything_in_order
            a_reader_goes_on_exactly_after_a_sequence_number
            a_reader_begins_exactly_at_a_sequence_number
            latest_gets_only_what_is_put_after_the_opening
            at_timestamp_begins_with_the_first_record_of_that_time
            a_reader_waits_for_what_is_put_later
            two_readers_of_a_shard_do_not_disturb_each_other
            no_fetch_exceeds_its_limit
            a_dropped_fetch_loses_and_repeats_nothing
            a_reader_that_has_caught_up_is_not_behind
            an_open_shard_does_not_end
            a_split_shard_ends_once_after_its_last_record_with_both_children
            a_merged_shard_ends_with_the_child_that_names_both_parents
            an_empty_shard_that_is_closed_ends
            resuming_after_the_last_record_of_a_closed_shard_finds_its_end
            children_hold_only_what_was_put_after_the_split
            the_listing_shows_lineage_and_covers_every_hash_key
            a_paged_listing_shows_each_shard_once
            the_open_filter_leaves_closed_shards_out
            the_identity_stays_the_same
            an_unknown_shard_is_not_found
            a_throttled_reader_goes_on_where_it_was
            a_reader_whose_iterator_expired_goes_on_where_it_was
            latest_stays_where_it_was_though_its_iterator_expired
            a_half_open_answer_is_given_up_and_nothing_is_lost
            a_reader_whose_shard_is_in_use_waits_and_goes_on_where_it_was
            a_reader_goes_on_exactly_after_a_long_pause
            a_reader_outlives_what_it_reads_by
        }
    };
    (@cases [$stamp:ident!] $($case:ident)*) => { $stamp! { $($case)* } };
    (@cases [$($setup:tt)*] $($case:ident)*) => {
        $crate::stream_source_suite! { @each [$($setup)*] $($case)* }
    };
    (@each [$($setup:tt)*]) => {};
    (@each [#[$test:meta] $make:path] $case:ident $($rest:ident)*) => {
        #[$test]
        async fn $case() {
            $crate::source_suite::$case(&$make().await).await;
        }
        $crate::stream_source_suite! { @each [#[$test] $make] $($rest)* }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_names_every_case() {
        let list = include_str!("mod.rs").split("@cases").nth(1).unwrap();
        let files = [include_str!("cases.rs"), include_str!("disturbed.rs")];
        let cases = files.iter().flat_map(|file| file.split("pub async fn ").skip(1));
        let names: Vec<_> = cases.filter_map(|text| text.split('(').next()).collect();
        assert!(names.len() > 10);
        for name in names {
            assert!(
                list.split_whitespace().any(|listed| listed == name),
                "{name} is not in the list"
            );
        }
    }
}
