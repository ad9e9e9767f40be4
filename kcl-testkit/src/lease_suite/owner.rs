//! Changes of ownership: taking and assigning, handing off, releasing.

use kcl_core::lease_store::{Lease, LeaseChange};

use super::LeaseStoreFixture;
use super::support::{
    Handle, assign, attempt, change, checkpoint, create, hand_off, lease, one_won, owned, read, refused,
    refused_expecting, renew, with_counter, worker,
};

/// The new owner stands alone in the row, whether the lease was unowned, owned or being handed off.
pub async fn assigning_names_the_new_owner_alone(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, lease(1)).await;
    let row = change(&store, &row, assign(1)).await;
    assert_eq!(row.owner, Some(worker(1)));
    let row = change(&store, &row, hand_off(2)).await;
    let row = change(&store, &row, assign(3)).await;
    assert_eq!((row.owner, row.checkpoint_owner), (Some(worker(3)), None));
}

/// Owner switches are counted as the Java KCL counts them, and forgotten at the next checkpoint.
pub async fn assigning_counts_a_switch_of_the_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, lease(1)).await;
    let first = change(&store, &row, assign(1)).await;
    assert_eq!(first.owner_switches, 0, "nobody owned it before");
    let same = change(&store, &first, assign(1)).await;
    assert_eq!(same.owner_switches, 0, "the same owner again");
    let other = change(&store, &same, assign(2)).await;
    assert_eq!(other.owner_switches, 1, "another owner");
    let handing = change(&store, &other, hand_off(3)).await;
    let back = change(&store, &handing, assign(2)).await;
    assert_eq!(
        back.owner_switches, 2,
        "back to the worker that was handing it off"
    );
    let checkpointed = change(&store, &back, checkpoint(5)).await;
    assert_eq!(checkpointed.owner_switches, 0, "checkpointed");
}

/// How often the owner changed is for people and Java: a number that can rise no further keeps nobody from taking the lease.
pub async fn switches_of_the_owner_stop_at_their_limit(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(
        &store,
        Lease {
            owner_switches: u64::MAX,
            ..owned(1, 1)
        },
    )
    .await;
    let taken = change(&store, &row, assign(2)).await;
    assert_eq!((taken.owner_switches, taken.owner), (u64::MAX, Some(worker(2))));
}

/// Of two workers taking one lease one is refused, and reads the winner's row.
pub async fn the_loser_of_two_takes_sees_the_winners_row(fixture: &dyn LeaseStoreFixture) {
    let (a, b) = (fixture.handle().await, fixture.handle().await);
    for n in 1..=8 {
        let row = create(&a, lease(n)).await;
        let (take_a, take_b) = (assign(1), assign(2));
        let (outcome_a, outcome_b) = tokio::join!(attempt(&a, &row, &take_a), attempt(&b, &row, &take_b));
        assert!(
            one_won([&outcome_a, &outcome_b]),
            "{outcome_a:?} and {outcome_b:?}"
        );
        let winner = if matches!(outcome_a, kcl_core::lease_store::Outcome::Applied(_)) {
            1
        } else {
            2
        };
        for handle in [&a, &b] {
            assert_eq!(read(handle, &row.key).await.unwrap().owner, Some(worker(winner)));
        }
    }
}

/// An owner that was thought dead and renews in the last moment keeps its lease.
pub async fn an_assignment_is_refused_by_one_late_renewal(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    change(&store, &row, renew()).await;
    refused(&store, &row, &assign(2)).await;
}

/// Neither an assignment nor a handoff brings a deleted lease back.
pub async fn a_deleted_lease_is_not_brought_back_by_an_assignment_or_a_handoff(
    fixture: &dyn LeaseStoreFixture,
) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    change(&store, &row, LeaseChange::Delete).await;
    for late in [assign(2), hand_off(2)] {
        refused(&store, &row, &late).await;
    }
    assert_eq!(read(&store, &row.key).await, None);
}

async fn in_handoff(store: &Handle) -> Lease {
    let row = create(store, owned(1, 1)).await;
    change(store, &row, hand_off(2)).await
}

/// Beginning a handoff names both workers and moves no counter: the owner's heartbeat is its own.
pub async fn a_handoff_names_both_workers_and_moves_no_counter(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let handing = change(&store, &row, hand_off(2)).await;
    assert_eq!(
        (&handing.owner, &handing.checkpoint_owner),
        (&Some(worker(2)), &Some(worker(1)))
    );
    assert_eq!(
        (handing.counter, handing.owner_switches),
        (row.counter, row.owner_switches)
    );
}

/// A planner that read the row some renewals ago can still begin a handoff.
pub async fn a_handoff_begins_although_the_owner_keeps_renewing(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let seen = create(&store, owned(1, 1)).await;
    let row = change(&store, &seen, renew()).await;
    let row = change(&store, &row, checkpoint(3)).await;
    let begun = attempt(&store, &seen, &hand_off(2)).await;
    let after = kcl_core::lease_store::apply(&row, &hand_off(2), super::support::incarnation(1));
    assert_eq!(begun, kcl_core::lease_store::Outcome::Applied(Box::new(after)));
}

/// The owner that was to hand off is not the owner any more.
pub async fn a_handoff_is_refused_once_the_owner_changed_or_is_gone(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let seen = create(&store, owned(1, 1)).await;
    let row = change(&store, &seen, assign(3)).await;
    refused(&store, &seen, &hand_off(2)).await;
    let row = change(&store, &row, LeaseChange::Release).await;
    assert_eq!(row.owner, None);
    refused(&store, &seen, &hand_off(2)).await;
}

/// Two planners begin a handoff of one lease: the second is refused.
pub async fn a_second_handoff_on_top_of_the_first_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let seen = create(&store, owned(1, 1)).await;
    change(&store, &seen, hand_off(2)).await;
    refused(&store, &seen, &hand_off(3)).await;
    refused(&store, &seen, &hand_off(2)).await;
}

/// A renewal that does not know of the handoff fails; nothing else informs the owner sooner.
pub async fn a_renewal_that_does_not_know_of_the_handoff_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    change(&store, &row, hand_off(2)).await;
    refused(&store, &row, &renew()).await;
    refused(&store, &row, &checkpoint(5)).await;
}

/// The worker that hands off goes on renewing and checkpointing until it is done.
pub async fn the_owner_renews_and_checkpoints_during_a_handoff(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = in_handoff(&store).await;
    let row = change(&store, &row, renew()).await;
    let row = change(&store, &row, checkpoint(5)).await;
    assert_eq!(row.counter, 2);
    assert!(row.is_in_handoff());
}

/// A completed handoff leaves the next owner alone in the row; a second completion is refused.
pub async fn a_completed_handoff_leaves_the_next_owner_alone_in_the_row(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let handing = in_handoff(&store).await;
    let row = change(&store, &handing, LeaseChange::CompleteHandoff).await;
    assert_eq!((&row.owner, &row.checkpoint_owner), (&Some(worker(2)), &None));
    assert_eq!(row.counter, handing.counter + 1);
    refused(&store, &handing, &LeaseChange::CompleteHandoff).await;
    refused(&store, &handing, &LeaseChange::CancelHandoff).await;
    change(&store, &row, renew()).await;
}

/// An owner that cannot hand off in time writes itself back.
pub async fn a_cancelled_handoff_leaves_the_old_owner_alone_in_the_row(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let handing = in_handoff(&store).await;
    let row = change(&store, &handing, LeaseChange::CancelHandoff).await;
    assert_eq!((&row.owner, &row.checkpoint_owner), (&Some(worker(1)), &None));
    refused(&store, &handing, &LeaseChange::CompleteHandoff).await;
}

/// An owner that died during the handoff is overruled, and its late completion is refused.
pub async fn a_handoff_that_timed_out_is_overruled(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let handing = in_handoff(&store).await;
    let row = change(&store, &handing, assign(2)).await;
    assert_eq!(row.checkpoint_owner, None);
    refused(&store, &handing, &LeaseChange::CompleteHandoff).await;
    refused(&store, &handing, &renew()).await;
}

/// From the first to the last step of a handoff one worker, and only one, is the one that processes.
pub async fn at_every_step_of_a_handoff_exactly_one_worker_owns_the_lease(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let mut row = create(&store, owned(1, 1)).await;
    let steps = [
        (hand_off(2), 1),
        (renew(), 1),
        (checkpoint(5), 1),
        (LeaseChange::CompleteHandoff, 2),
        (renew(), 2),
        (hand_off(1), 2),
        (LeaseChange::CancelHandoff, 2),
    ];
    for (step, owner) in steps {
        row = change(&store, &row, step).await;
        assert_eq!(row.actual_owner(), Some(&worker(owner)));
    }
}

/// A released lease has no owner, and every watch on it ends: the counter moved.
pub async fn a_released_lease_has_no_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, checkpoint(5)).await;
    let released = change(&store, &row, LeaseChange::Release).await;
    assert_eq!((released.owner, released.counter), (None, row.counter + 1));
    assert_eq!(released.checkpoint, row.checkpoint);
}

/// Releasing during a handoff is handing off: the next owner stays.
pub async fn a_release_during_a_handoff_leaves_the_next_owner(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = in_handoff(&store).await;
    let released = change(&store, &row, LeaseChange::Release).await;
    assert_eq!(
        (released.owner, released.checkpoint_owner),
        (Some(worker(2)), None)
    );
}

/// No worker releases what another worker took.
pub async fn a_release_by_a_former_owner_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let taken = change(&store, &row, assign(2)).await;
    refused(&store, &row, &LeaseChange::Release).await;
    let same_counter = with_counter(&row, taken.counter);
    refused_expecting(&store, &row.key, &same_counter, &LeaseChange::Release).await;
}
