//! GetRecords in CBOR: payloads stay where they arrived. The gain over JSON is measured by
//! `cargo run --release -p kcl-tests --bin figures -- reading`.
//!
//! Kinesis speaks CBOR beside JSON, to the Java SDK among others. The Rust SDK asks for JSON, in which a payload is base64 that must be decoded
//! into memory of its own. Here the SDK is given another protocol for this one operation; signing, deadlines and connections stay its own.

mod decode;
mod protocol;

pub(crate) use decode::decode;
pub(crate) use protocol::{KinesisCbor, NOT_CBOR};
