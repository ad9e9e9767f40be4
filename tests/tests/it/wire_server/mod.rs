//! The wire server of the test kit, under the real SDK and under plain requests.

mod attached;
mod data_file;
mod fan_out;
mod faults;
mod limits;
mod listing;
mod protocols;
mod raw;
mod reading;
mod refusals;
mod resharding;
mod settings;
mod streams;
mod support;
mod tools;
