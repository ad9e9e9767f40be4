//! The entry of the fuzz target of the row codec. No part of the crate's interface.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::Scan;

use crate::attributes;
use crate::codec::{creation_item, encode_lock, put, s, worker_attributes};
use crate::scan::add_row;

/// Scans a table with these rows.
pub fn read(rows: &[BTreeMap<String, AttributeValue>]) -> Scan {
    let mut scan = Scan::default();
    for row in rows {
        if let Err(error) = add_row(&mut scan, row) {
            scan.undecodable.push(error.of_row(row));
        }
    }
    scan
}

/// The rows that would be written for what was read.
pub fn write(scan: &Scan) -> Vec<BTreeMap<String, AttributeValue>> {
    let leases = scan.leases.iter().map(creation_item);
    let workers = scan.workers.iter().map(|worker| {
        let mut item = worker_attributes(worker);
        put(&mut item, attributes::KEY, s(&worker.id));
        item
    });
    leases
        .chain(workers)
        .chain(scan.lock.as_ref().map(encode_lock))
        .collect()
}
