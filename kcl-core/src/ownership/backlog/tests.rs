use super::*;
use crate::types::SequenceNumber;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Moment {
    Moment::from_origin(SECOND * u32::try_from(seconds).unwrap())
}

fn answer(came: u64, behind: u64, span: u64) -> SourceAnswer {
    SourceAnswer {
        came: at(came),
        behind: Duration::from_secs(behind),
        span: Duration::from_secs(span),
        brings: true,
        is_whole: true,
    }
}

fn nothing(came: u64) -> SourceAnswer {
    SourceAnswer {
        brings: false,
        ..answer(came, 0, 0)
    }
}

/// The ages of what is not read and of what is not finished at this moment, in seconds.
fn ages(backlog: &LagTracker, now: u64) -> (u64, u64) {
    let age = |behind: Behind| behind.at(at(now)).as_secs();
    (age(backlog.unread()), age(backlog.unfinished()))
}

#[test]
fn silent_shard_grows_old_from_the_beginning() {
    assert_eq!(ages(&LagTracker::new(at(5)), 65), (60, 60));
}

#[test]
fn caught_up_shard_stays_young_while_told_so() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    for second in 1..100 {
        backlog.fetched(fetcher, nothing(second));
        assert_eq!(ages(&backlog, second + 1), (1, 1));
    }
    assert_eq!(ages(&backlog, 199), (100, 100), "and grows old once nobody does");
}

#[test]
fn fetched_records_are_unfinished_until_consumer_says_so() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    backlog.fetched(fetcher, answer(10, 100, 60));
    backlog.fetched(fetcher, answer(20, 0, 30));
    assert_eq!(ages(&backlog, 30), (10, 180));
    backlog.taken(1);
    assert_eq!(ages(&backlog, 30), (10, 180));
    backlog.finished();
    assert_eq!(
        ages(&backlog, 30),
        (10, 120),
        "the next batch begins where the first ended"
    );
    backlog.taken(1);
    backlog.fetched(fetcher, nothing(40));
    assert_eq!(ages(&backlog, 50), (10, 140), "nothing new does not hide it");
    backlog.finished();
    assert_eq!(ages(&backlog, 50), (10, 10));
}

fn position(n: u128) -> RecordPosition {
    RecordPosition::plain(SequenceNumber::from(n))
}

#[test]
fn records_that_no_checkpoint_covers_grow_old() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    backlog.fetched(fetcher, answer(10, 0, 5));
    backlog.fetched(fetcher, answer(20, 0, 5));
    backlog.taken(1);
    backlog.returned(&position(7), None, at(21));
    backlog.taken(1);
    backlog.returned(&position(9), Some(&position(5)), at(22));
    backlog.fetched(fetcher, nothing(100));
    assert_eq!(ages(&backlog, 100), (0, 100));
    assert_eq!(backlog.unfinished_since(), Some(at(21)));
    backlog.finished_through(&position(8));
    assert_eq!(
        (ages(&backlog, 100), backlog.unfinished_since()),
        ((0, 90), Some(at(22)))
    );
    backlog.finished_through(&position(9));
    assert_eq!((ages(&backlog, 100), backlog.unfinished_since()), ((0, 0), None));
}

#[test]
fn batch_finished_before_its_return_is_finished() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    backlog.fetched(fetcher, answer(10, 0, 5));
    backlog.taken(1);
    backlog.returned(&position(7), Some(&position(7)), at(11));
    assert_eq!(backlog.unfinished_since(), None);
}

#[test]
fn batches_that_are_never_finished_cost_bounded_memory() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    for n in 1..10_000 {
        backlog.fetched(fetcher, answer(n, 0, 0));
        backlog.taken(1);
        backlog.returned(&position(n.into()), None, at(n));
        assert!(backlog.returned.len() <= MOST_RETURNED);
        assert_eq!(backlog.unfinished_since(), Some(at(1)));
    }
    // Whatever is finished, what is left is never taken for younger than it is.
    for n in 1..10_000 {
        backlog.finished_through(&position(n.into()));
        let since = backlog.unfinished_since();
        assert!(since.is_none_or(|since| since <= at(n + 1)), "{since:?} at {n}");
    }
    assert_eq!(backlog.unfinished_since(), None);
}

#[test]
fn records_after_pause_may_be_that_old() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    backlog.fetched(fetcher, nothing(1));
    backlog.fetched(fetcher, answer(1001, 0, 5));
    assert_eq!(ages(&backlog, 1001), (0, 1000));
}

#[test]
fn what_is_not_handed_on_is_not_fetched() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    let part = SourceAnswer {
        is_whole: false,
        ..answer(10, 50, 20)
    };
    backlog.fetched(fetcher, part);
    backlog.taken(1);
    backlog.finished();
    assert_eq!(ages(&backlog, 10), (70, 70));
}

#[test]
fn fetches_of_replaced_fetcher_are_not_read() {
    let mut backlog = LagTracker::new(at(0));
    let former = backlog.begin_fetching();
    for second in [10, 20, 30] {
        backlog.fetched(former, answer(second, 0, 0));
    }
    backlog.taken(1);
    let latter = backlog.begin_fetching();
    assert_eq!(ages(&backlog, 40), (30, 40), "the batch in hand stays");
    backlog.fetched(former, answer(40, 0, 0));
    assert_eq!(ages(&backlog, 40), (30, 40), "nobody takes what it says");
    backlog.fetched(latter, answer(41, 0, 1));
    backlog.finished();
    backlog.taken(1);
    assert_eq!(ages(&backlog, 41), (0, 31));
    backlog.finished();
    assert_eq!(ages(&backlog, 41), (0, 0));
}

#[test]
fn panic_leaves_shard_as_old_as_unfinished_records() {
    let mut backlog = LagTracker::new(at(0));
    let fetcher = backlog.begin_fetching();
    backlog.fetched(fetcher, answer(10, 0, 15));
    backlog.taken(1);
    backlog.forget();
    assert_eq!(ages(&backlog, 20), (25, 25));
    backlog.fetched(fetcher, nothing(20));
    assert_eq!(ages(&backlog, 20), (25, 25));
}
