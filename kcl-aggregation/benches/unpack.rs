//! How fast aggregated records are unpacked, on one core: `cargo bench -p kcl-aggregation --bench unpack`.
//!
//! The bodies are what the KPL makes at its default of 50 KiB, with user records of 100 bytes. Each line is the median of a few runs in
//! GB of user data per second, and its ratio to MD5 alone over the same bytes: the check that nobody can skip.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program of its own")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kcl_aggregation::{Aggregate, Aggregator, OutsideShard, hash_key_of, unpack};
use md5::{Digest as _, Md5};

const USER_RECORDS: usize = 100_000;
const USER_RECORD: usize = 100;
const AGGREGATE: usize = 51_200;

fn main() {
    println!(
        "{USER_RECORDS} user records of {USER_RECORD} bytes, in aggregated records of {AGGREGATE} bytes"
    );
    for (what, keys, explicit) in [
        ("one partition key per user record", USER_RECORDS, false),
        ("100 partition keys", 100, false),
        ("one explicit hash key per user record", USER_RECORDS, true),
    ] {
        println!("\n{what}");
        measure(&packed(keys, explicit));
    }
}

fn measure(bodies: &[Bytes]) {
    let messages: Vec<Bytes> = bodies.iter().map(|body| body.slice(4..body.len() - 16)).collect();
    let md5 = median(|| {
        for message in &messages {
            black_box(Md5::digest(message));
        }
    });
    let line = |what: &str, time: Duration| {
        let rate = (USER_RECORDS * USER_RECORD) as f64 / time.as_secs_f64() / 1e9;
        let per_record = time / USER_RECORDS as u32;
        let ratio = md5.as_secs_f64() / time.as_secs_f64();
        println!("  {what:<44} {rate:>6.2} GB/s {per_record:>6.0?} per user record, {ratio:>5.2} x MD5");
    };
    line("MD5 alone", md5);
    line("unpack", median(|| bodies.iter().for_each(consume)));
    let no_md5 = || messages.iter().for_each(|message| deliver(&parse(message)));
    line("without MD5", median(no_md5));
    let parsing = || {
        messages
            .iter()
            .for_each(|message| drop(black_box(parse(message))))
    };
    line("without MD5 and user records: parsing alone", median(parsing));
    let in_shard = || {
        for body in bodies {
            let aggregate = unpack(body).unwrap().unwrap();
            let admitted = aggregate
                .admit(1..=u128::MAX, OutsideShard::FilterAggregate)
                .unwrap();
            admitted.records().for_each(|record| drop(black_box(record)));
        }
    };
    line("unpack, with the hash key of each in a shard", median(in_shard));
}

fn parse(message: &Bytes) -> Aggregate {
    Aggregate::from_message(message.clone()).unwrap()
}

fn consume(body: &Bytes) {
    deliver(&unpack(body).unwrap().unwrap());
}

fn deliver(aggregate: &Aggregate) {
    for record in aggregate.records() {
        black_box(record.unwrap());
    }
}

fn packed(keys: usize, explicit: bool) -> Vec<Bytes> {
    let mut aggregator = Aggregator::with_limit(AGGREGATE);
    let mut packed = Vec::new();
    for number in 0..USER_RECORDS {
        let key = format!("truck-{}", number % keys);
        let hash_key = explicit.then(|| hash_key_of(&key));
        packed.extend(aggregator.add(&key, hash_key, &[b'x'; USER_RECORD]).unwrap());
    }
    packed.extend(aggregator.finish());
    packed.into_iter().map(|packed| packed.data).collect()
}

/// The median time of some runs, after one that warms up.
#[expect(clippy::disallowed_methods, reason = "it is real time that is measured")]
fn median(run: impl Fn()) -> Duration {
    run();
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}
