//! No row of a lease table makes a panic, and a row that was read reads the same after it is written.
//!
//! `cargo test` replays the committed inputs and tries some more; CONTRIBUTING.md says how to search for longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod corpus;

use std::collections::BTreeMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use kcl_lease_dynamo::fuzzing::{read, write};

type Row = BTreeMap<String, AttributeValue>;

#[test]
fn any_row_is_read_the_same_again_or_listed_as_unreadable() {
    bolero::check!().for_each(check);
}

#[test]
fn the_committed_inputs_pass() {
    corpus::replay("any_row_is_read_the_same_again_or_listed_as_unreadable", check);
}

fn check(input: &[u8]) {
    let mut first = read(&[row(&String::from_utf8_lossy(input))]);
    let written = write(&first);
    let found = first.leases.len() + first.workers.len() + usize::from(first.lock.is_some());
    assert!(found + first.undecodable.len() <= 1);
    assert_eq!(written.len(), found);

    let mut second = read(&written);
    assert_eq!(second.undecodable, []);
    assert_eq!(read(&write(&second)), second);

    first.undecodable.clear();
    // Two things are not written as they were read: a throughput that DynamoDB would refuse, and a shard whose name is not the
    // lease key's although the row names no stream.
    for (again, lease) in second.leases.iter_mut().zip(&first.leases) {
        again.throughput = lease.throughput;
        if lease.stream.is_none() {
            again.shard = lease.shard.clone();
        }
    }
    // As text, because a throughput may be read that is not a number, and equals nothing.
    assert_eq!(format!("{second:?}"), format!("{first:?}"));
}

/// A row from lines of `name type value`, with the values of a set separated by commas.
fn row(text: &str) -> Row {
    let attributes = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ' ');
        let (name, kind, value) = (parts.next()?, parts.next()?, parts.next()?);
        Some((name.to_owned(), attribute(kind, value)?))
    });
    attributes.collect()
}

fn attribute(kind: &str, value: &str) -> Option<AttributeValue> {
    Some(match kind {
        "S" => AttributeValue::S(value.to_owned()),
        "N" => AttributeValue::N(value.to_owned()),
        "B" => AttributeValue::B(Blob::new(value)),
        "SS" => AttributeValue::Ss(value.split(',').map(str::to_owned).collect()),
        "M" => AttributeValue::M(Default::default()),
        "L" => AttributeValue::L(Vec::new()),
        "BOOL" => AttributeValue::Bool(value == "true"),
        "NULL" => AttributeValue::Null(true),
        _ => return None,
    })
}
