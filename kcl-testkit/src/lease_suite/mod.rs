//! The conformance suite of lease stores: what [`LeaseStore`](kcl_core::lease_store::LeaseStore) promises, one behaviour at a time.
//!
//! Each behaviour is a function that is named as a sentence, takes a fresh storage and panics when the store breaks the promise.
//! [`lease_store_suite!`](crate::lease_store_suite) stamps a test for each, so that a failure has a name.
//! All of them compare the store with [`apply`](kcl_core::lease_store::apply), the specification.
//!
//! Cases that need something of the storage which the fixture does not offer say on standard error that they did not run.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a case reports a broken promise by panicking, as every test does"
)]

pub mod create;
pub mod faults;
mod fixture;
pub mod lock;
pub mod model;
pub mod orders;
pub mod owner;
pub mod progress;
pub mod renew;
pub mod rows;
pub mod scan;
mod support;
pub mod workers;

pub use fixture::{LeaseStoreFixture, RawRows, Scale};

/// Says that a case did not run, in words that cannot be overlooked.
fn did_not_run(case: &str) {
    eprintln!("NOT RUN: {case}: the fixture does not offer what the case needs");
}

/// Stamps one `#[tokio::test]` for each behaviour of a lease store.
///
/// `$make` is called without arguments in each test; it gives a future of the fresh [`LeaseStoreFixture`]s to run on: usually
/// one, and none where the storage cannot be had. `$make` then has to say so, because the tests pass.
/// The calling crate needs `tokio` with the features `macros` and `rt`.
///
/// ```
/// use std::sync::Arc;
///
/// use kcl_core::lease_store::LeaseStore;
/// use kcl_lease_memory::MemoryLeaseStore;
/// use kcl_testkit::lease_suite::LeaseStoreFixture;
///
/// struct InMemory(MemoryLeaseStore, MemoryLeaseStore);
///
/// #[async_trait::async_trait]
/// impl LeaseStoreFixture for InMemory {
///     async fn handle(&self) -> Arc<dyn LeaseStore> {
///         Arc::new(self.0.clone())
///     }
///
///     async fn other_application(&self) -> Arc<dyn LeaseStore> {
///         Arc::new(self.1.clone())
///     }
/// }
///
/// async fn make() -> [InMemory; 1] {
///     [InMemory(MemoryLeaseStore::new(), MemoryLeaseStore::new())]
/// }
///
/// kcl_testkit::lease_store_suite!(make);
/// ```
#[macro_export]
macro_rules! lease_store_suite {
    ($make:expr) => {
        $crate::lease_store_cases! { $make;
            create {
                a_lease_created_in_an_empty_table_reads_back_as_it_was_written,
                creating_a_lease_twice_is_refused_and_leaves_the_first,
                of_two_handles_creating_one_lease_exactly_one_wins,
                every_field_of_a_lease_survives_being_stored,
                every_sentinel_checkpoint_survives_being_stored,
                a_sequence_number_of_129_digits_survives_being_stored,
                hash_ranges_at_the_extremes_survive_being_stored,
                leases_with_no_one_and_two_parents_survive_being_stored,
                a_change_that_does_not_fit_its_expectation_is_an_error_and_touches_nothing,
            }
            renew {
                a_renewal_adds_one_to_the_counter_and_touches_no_checkpoint,
                renewal_under_a_stale_counter_is_refused,
                renewal_under_a_future_counter_is_refused,
                renewal_by_a_former_owner_is_refused,
                a_renewal_stores_the_facts_it_brings_and_leaves_the_others,
                the_failover_time_of_an_owner_goes_with_it,
                renewal_of_an_absent_lease_is_refused_and_creates_nothing,
                of_a_renewal_and_a_take_at_once_exactly_one_wins,
                of_two_renewals_of_one_version_exactly_one_is_made,
                counter_at_its_limit_is_moved_no_further,
            }
            owner {
                assigning_names_the_new_owner_alone,
                assigning_counts_a_switch_of_the_owner,
                switches_of_the_owner_stop_at_their_limit,
                the_loser_of_two_takes_sees_the_winners_row,
                an_assignment_is_refused_by_one_late_renewal,
                a_deleted_lease_is_not_brought_back_by_an_assignment_or_a_handoff,
                a_handoff_names_both_workers_and_moves_no_counter,
                a_handoff_begins_although_the_owner_keeps_renewing,
                a_handoff_is_refused_once_the_owner_changed_or_is_gone,
                a_second_handoff_on_top_of_the_first_is_refused,
                a_renewal_that_does_not_know_of_the_handoff_is_refused,
                the_owner_renews_and_checkpoints_during_a_handoff,
                a_completed_handoff_leaves_the_next_owner_alone_in_the_row,
                a_cancelled_handoff_leaves_the_old_owner_alone_in_the_row,
                a_handoff_that_timed_out_is_overruled,
                at_every_step_of_a_handoff_exactly_one_worker_owns_the_lease,
                a_released_lease_has_no_owner,
                a_release_during_a_handoff_leaves_the_next_owner,
                a_release_by_a_former_owner_is_refused,
            }
            progress {
                a_checkpoint_stores_the_position_and_moves_the_counter,
                a_checkpoint_under_a_stale_version_is_refused_and_moves_nothing,
                a_checkpoint_clears_a_pending_one,
                what_is_finished_ahead_is_replaced_with_each_checkpoint,
                what_is_finished_ahead_stays_until_the_next_checkpoint,
                a_prepared_checkpoint_stays_until_the_next_checkpoint,
                a_prepared_checkpoint_is_replaced_or_discarded,
                preparing_under_a_stale_version_is_refused,
                attributes_the_store_does_not_know_survive_every_change,
                an_ended_lease_has_children_and_no_owner,
                ending_during_a_handoff_leaves_no_owner,
                an_end_under_a_stale_version_is_refused,
            }
            rows {
                describing_touches_neither_owner_nor_counter_nor_checkpoint,
                describing_leaves_the_facts_it_does_not_bring,
                describing_an_absent_lease_is_refused_and_creates_nothing,
                deletion_under_a_stale_version_is_refused,
                deletion_of_an_absent_lease_is_refused,
                a_lease_created_again_after_its_deletion_starts_fresh,
            }
            orders {
                order_leaves_owner_counter_and_checkpoint,
                order_under_stale_revision_is_refused,
                order_for_absent_lease_is_refused,
                every_order_survives_being_stored,
                orders_of_new_lease_survive_being_stored,
                owner_answers_and_reports_while_renewing,
                reset_moves_checkpoint_and_fences_owner,
                reset_ends_handoff,
                reset_opens_ended_lease,
                reset_under_stale_version_or_revision_is_refused,
                of_two_orders_exactly_one_is_stored,
                orders_of_worker_survive_its_touches,
            }
            scan {
                an_empty_storage_scans_as_nothing,
                a_scan_shows_a_lease_as_it_is,
                a_scan_shows_leases_workers_and_the_lock_at_once,
                a_scan_over_the_edge_of_a_page_sees_each_row_once,
                a_scan_of_a_large_table_sees_each_row_once,
                rows_present_throughout_are_seen_once_while_others_come_and_go,
                an_undecodable_row_is_reported_and_the_others_are_read,
                rows_of_a_kind_the_store_does_not_know_are_skipped,
                the_leases_of_a_worker_are_found_and_follow_a_change_of_owner,
                two_applications_do_not_see_each_other,
            }
            workers {
                an_announced_worker_is_seen_as_it_announced_itself,
                a_worker_touches_its_own_row,
                a_touch_after_a_newer_run_announced_itself_is_refused,
                a_touch_of_an_absent_row_is_refused,
                a_worker_returns_only_where_no_row_is,
                a_leaving_worker_deletes_its_own_row_only,
                the_row_of_a_dead_worker_is_deleted_only_as_it_was_last_seen,
            }
            lock {
                a_free_lock_is_taken_and_reads_back,
                taking_a_held_lock_as_if_it_were_free_is_refused,
                of_two_takers_of_a_free_lock_exactly_one_wins,
                a_heartbeat_under_an_old_version_is_refused,
                a_challenger_takes_the_lock_as_it_saw_it_last,
                the_version_of_another_owner_is_not_enough,
                a_released_lock_is_free,
                the_mark_of_a_lock_given_up_survives_being_stored,
            }
            faults {
                a_change_whose_reply_was_lost_is_found_to_be_made,
                a_change_whose_request_was_lost_is_found_not_to_be_made,
                a_definite_failure_leaves_the_row_alone,
                the_write_of_another_run_of_the_worker_is_not_taken_for_our_own,
                a_renewal_whose_reply_was_lost_is_found_under_a_handoff_begun_on_top,
                renewal_with_lost_reply_keeps_its_lease,
                a_prepared_checkpoint_whose_reply_was_lost_is_found,
                a_dropped_caller_leaves_the_row_before_or_after_and_never_a_mix,
            }
            model {
                random_changes_from_three_handles_equal_a_sequential_fold_of_the_specification,
            }
        }
    };
}

/// The test functions that [`lease_store_suite!`](crate::lease_store_suite) consists of.
#[doc(hidden)]
#[macro_export]
macro_rules! lease_store_cases {
    ($make:expr; $($family:ident { $($case:ident,)+ })+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                for fixture in $make().await {
                    $crate::lease_suite::$family::$case(&fixture).await;
                }
            }
        )+)+
    };
}

#[cfg(test)]
mod tests {
    /// A case that is written and not listed would never run.
    #[test]
    fn every_case_is_stamped_by_the_macro() {
        let listed = include_str!("mod.rs");
        let files = [
            include_str!("create.rs"),
            include_str!("faults.rs"),
            include_str!("lock.rs"),
            include_str!("model.rs"),
            include_str!("orders.rs"),
            include_str!("owner.rs"),
            include_str!("progress.rs"),
            include_str!("renew.rs"),
            include_str!("rows.rs"),
            include_str!("scan.rs"),
            include_str!("workers.rs"),
        ];
        let mut cases = 0;
        for line in files.iter().flat_map(|file| file.lines()) {
            let Some(rest) = line.strip_prefix("pub async fn ") else {
                continue;
            };
            let case = rest.split('(').next().unwrap_or(rest);
            assert!(
                listed.contains(&format!(" {case},\n")),
                "{case} is not in lease_store_suite!"
            );
            cases += 1;
        }
        assert!(cases > 50, "only {cases} cases were found");
    }
}
