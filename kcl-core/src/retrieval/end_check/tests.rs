use super::*;
use crate::types::{HashKeyRange, Position};

fn id(number: u32) -> ShardId {
    ShardId::new(format!("shardId-{number:012}")).unwrap()
}

fn row() -> Lease {
    Lease {
        hash_range: Some(HashKeyRange::WHOLE),
        ..Lease::unowned(id(0), Position::TrimHorizon)
    }
}

fn children() -> Vec<ChildShard> {
    let (low, high) = HashKeyRange::WHOLE.halves().unwrap();
    let child = |(number, hash_range)| ChildShard {
        id: id(number),
        parents: [id(0)].into(),
        hash_range,
    };
    [(1, low), (2, high)].map(child).into()
}

fn claim() -> Option<ShardEnd> {
    Some(ShardEnd::default())
}

fn end() -> EndEvidence {
    EndEvidence::Ended(ShardEnd { children: children() })
}

fn at(seconds: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(seconds))
}

/// An answer with nothing but the record at which the reader began.
fn says(watch: &mut EndCheck, end: Option<ShardEnd>, named: Vec<ChildShard>) -> EndEvidence {
    watch.told(&row(), ResumeCheck::Now, at(0), end, named)
}

fn reopens(next: &EndStep) -> bool {
    matches!(next, EndStep::Reopen { .. })
}

#[test]
fn an_end_with_children_is_believed_at_once() {
    let mut watch = EndCheck::default();
    assert_eq!(says(&mut watch, None, vec![]), EndEvidence::Nothing);
    let told = Some(ShardEnd { children: children() });
    assert_eq!(says(&mut watch, told, vec![]), end());
}

#[test]
fn claim_about_open_shard_is_not_believed() {
    let mut watch = EndCheck::default();
    for _ in 0..20 {
        watch.opened();
        assert_eq!(says(&mut watch, claim(), vec![]), EndEvidence::Claim);
        assert!(watch.is_asked() && reopens(&watch.looked(ListingEvidence::Open)));
    }
}

#[test]
fn closed_shard_ends_when_fresh_reader_brings_nothing() {
    let mut watch = EndCheck::default();
    watch.opened();
    assert_eq!(says(&mut watch, claim(), vec![]), EndEvidence::Claim);
    assert!(reopens(&watch.looked(ListingEvidence::Closed)));
    // The same reader says nothing new.
    assert_eq!(says(&mut watch, claim(), vec![]), EndEvidence::Claim);
    watch.opened();
    watch.brought_records();
    assert_eq!(says(&mut watch, claim(), vec![]), EndEvidence::Claim);
    watch.opened();
    assert_eq!(says(&mut watch, None, vec![]), EndEvidence::Nothing);
    assert_eq!(
        says(&mut watch, claim(), vec![]),
        EndEvidence::Ended(ShardEnd::default())
    );
}

/// How many fresh readers claim the end, one a second, until it is believed.
fn claims_until_end(shown: ResumeCheck) -> u64 {
    let mut watch = EndCheck::default();
    says(&mut watch, claim(), vec![]);
    let is_believed = |second: &u64| {
        assert!(reopens(&watch.looked(ListingEvidence::Closed)));
        watch.opened();
        let said = watch.told(&row(), shown, at(*second), claim(), vec![]);
        said == EndEvidence::Ended(ShardEnd::default())
    };
    (1..100).find(is_believed).unwrap()
}

#[test]
fn claims_without_the_record_must_be_repeated() {
    assert_eq!(claims_until_end(ResumeCheck::Now), 1);
    assert_eq!(claims_until_end(ResumeCheck::Before), 3);
    assert_eq!(claims_until_end(ResumeCheck::Never), 1 + BLIND_FOR.as_secs());
}

#[test]
fn children_that_do_not_fit_are_a_claim() {
    let mut strangers = children();
    strangers[0].parents = [id(7)].into();
    let half = children()[..1].to_vec();
    for children in [strangers, half] {
        let mut watch = EndCheck::default();
        watch.opened();
        let told = Some(ShardEnd { children });
        assert_eq!(says(&mut watch, told.clone(), vec![]), EndEvidence::Claim);
        assert!(reopens(&watch.looked(ListingEvidence::Closed)));
        watch.opened();
        // Then the listing says what they are.
        assert_eq!(
            says(&mut watch, told, vec![]),
            EndEvidence::Ended(ShardEnd::default())
        );
    }
}

#[test]
fn named_children_are_used_where_shard_is_gone() {
    let mut watch = EndCheck::default();
    watch.brought_records();
    assert_eq!(says(&mut watch, None, children()), EndEvidence::Nothing);
    assert!(watch.is_asked());
    assert_eq!(
        watch.looked(ListingEvidence::Not),
        EndStep::ReadOn,
        "a listing may be incomplete"
    );
    watch.not_found();
    let end = ShardEnd { children: children() };
    assert_eq!(watch.looked(ListingEvidence::Not), EndStep::End(end));
    watch.not_found();
    assert_eq!(watch.looked(ListingEvidence::Open), EndStep::ReadOn);
    let mut watch = EndCheck::default();
    says(&mut watch, claim(), vec![]);
    assert!(
        reopens(&watch.looked(ListingEvidence::Not)),
        "no children, no end"
    );
    let mut watch = EndCheck::default();
    says(&mut watch, None, children());
    assert_eq!(
        watch.looked(ListingEvidence::Open),
        EndStep::ReadOn,
        "the listing may lag"
    );
}

#[test]
fn listed_children_are_used_where_shard_is_unknown() {
    let listed = || ShardEnd { children: children() };
    let mut watch = EndCheck::default();
    watch.not_found();
    assert!(watch.is_asked() && watch.gone(&row(), listed()));
    assert_eq!(watch.looked(ListingEvidence::Not), EndStep::End(listed()));

    let half = ShardEnd {
        children: children()[..1].to_vec(),
    };
    let without_keys = Lease {
        hash_range: None,
        ..row()
    };
    for (row, listed) in [
        (row(), half),
        (without_keys, listed()),
        (row(), ShardEnd::default()),
    ] {
        watch = EndCheck::default();
        watch.not_found();
        assert!(!watch.gone(&row, listed));
        assert_eq!(watch.looked(ListingEvidence::Not), EndStep::ReadOn);
    }
    // It was found, and only the listing does not show it.
    watch = EndCheck::default();
    says(&mut watch, claim(), vec![]);
    assert!(!watch.gone(&row(), listed()));
    assert!(reopens(&watch.looked(ListingEvidence::Not)));
}

#[test]
fn unknown_shard_that_is_listed_is_read_on() {
    for listed in [
        ListingEvidence::Open,
        ListingEvidence::Unknown,
        ListingEvidence::Not,
    ] {
        let mut watch = EndCheck::default();
        watch.not_found();
        assert_eq!(watch.looked(listed), EndStep::ReadOn);
        assert!(!watch.is_asked());
    }
}

#[test]
fn idle_reader_is_replaced_once_shard_is_closed() {
    let mut watch = EndCheck::default();
    for listed in [
        ListingEvidence::Open,
        ListingEvidence::Not,
        ListingEvidence::Unknown,
    ] {
        assert_eq!(watch.idled(listed), EndStep::ReadOn);
    }
    let mut reopened = |doubt| {
        let next = EndStep::Reopen {
            after: Duration::ZERO,
            doubt,
        };
        assert_eq!(watch.idled(ListingEvidence::Closed), next);
    };
    reopened(None);
    reopened(Some(EndDoubt::NoEnd));
}

#[test]
fn doubt_follows_looks_in_vain_until_a_record() {
    let mut watch = EndCheck::default();
    let mut look = |brings| {
        if brings {
            watch.brought_records();
        }
        says(&mut watch, claim(), vec![]);
        watch.looked(ListingEvidence::Open)
    };
    let mut doubts = |count: u32| {
        let looks = (0..count).filter(|_| {
            matches!(
                look(false),
                EndStep::Reopen {
                    doubt: Some(EndDoubt::ListedOpen),
                    ..
                }
            )
        });
        looks.count()
    };
    assert_eq!(doubts(TRIES - 1), 0);
    assert_eq!(doubts(3), 3);
    look(true);
    let next = look(false);
    assert!(matches!(next, EndStep::Reopen { doubt: None, .. }), "{next:?}");
}
