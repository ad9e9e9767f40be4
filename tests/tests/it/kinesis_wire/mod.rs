//! The Kinesis source, by polling and by enhanced fan-out, through the real SDK against the wire server.

mod black_holes;
mod dead_letters;
mod ends;
mod gaps;
mod handlers;
mod one_worker;
mod pauses;
mod runtimes;
mod served;
mod sharing;
mod subscribing;
mod suite;
mod tls;
mod worker;
