//! How fast aggregated records are unpacked, on one core: `cargo bench -p kcl-aggregation --bench unpack`.
//!
//! The bodies are what the KPL makes at its default of 50 KiB, with user records of 100 bytes. Each line is the median of a few runs in
//! GB of user data per second, and its ratio to MD5 alone over the same bytes: the check that nobody can skip.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program of its own")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kcl_aggregation::{Aggregate, Aggregator, Envelope, OutsideShard, hash_key_of, unpack};
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
    let md5 = || {
        for message in &messages {
            black_box(Md5::digest(message));
        }
    };
    let no_md5 = || messages.iter().for_each(|message| deliver(&parse(message)));
    let parsing = || {
        messages
            .iter()
            .for_each(|message| drop(black_box(parse(message))))
    };
    let in_shard = || {
        for body in bodies {
            let aggregate = unpack(body).unwrap().unwrap();
            let admitted = aggregate
                .admit(1..=u128::MAX, OutsideShard::FilterAggregate)
                .unwrap();
            admitted.records().for_each(|record| drop(black_box(record)));
        }
    };
    let one_by_one = || bodies.iter().for_each(consume);
    let single = || {
        bodies
            .iter()
            .for_each(|body| consume_together(std::slice::from_ref(body)))
    };
    let runs: [(&str, &dyn Fn()); 8] = [
        ("one by one", &one_by_one),
        ("together: an answer of all", &|| consume_together(bodies)),
        ("answers of one", &single),
        ("envelopes together, nothing unpacked", &|| {
            black_box(Envelope::of_each(bodies.iter().map(|body| &body[..])));
        }),
        ("MD5 alone", &md5),
        ("without MD5", &no_md5),
        ("without MD5 and user records: parsing alone", &parsing),
        ("one by one, with hash keys in a shard", &in_shard),
    ];
    let times = medians(&runs.map(|(_, run)| run));
    for ((what, _), time) in runs.iter().zip(&times) {
        let rate = (USER_RECORDS * USER_RECORD) as f64 / time.as_secs_f64() / 1e9;
        let per_record = *time / USER_RECORDS as u32;
        let ratio = times[0].as_secs_f64() / time.as_secs_f64();
        println!(
            "  {what:<44} {rate:>6.2} GB/s {per_record:>6.0?} per user record, {ratio:>5.2} x one by one"
        );
    }
}

fn consume_together(bodies: &[Bytes]) {
    let envelopes = Envelope::of_each(bodies.iter().map(|body| &body[..]));
    for (body, envelope) in bodies.iter().zip(envelopes) {
        deliver(&envelope.unpack(body).unwrap().unwrap());
    }
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

/// The median time of some runs of each, after one that warms up. They take turns: so each has its share of what else the machine does.
#[expect(clippy::disallowed_methods, reason = "it is real time that is measured")]
fn medians(runs: &[&dyn Fn()]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); runs.len()];
    for round in 0..16 {
        for (run, times) in runs.iter().zip(&mut times) {
            let start = Instant::now();
            run();
            if round > 0 {
                times.push(start.elapsed());
            }
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        })
        .collect()
}
