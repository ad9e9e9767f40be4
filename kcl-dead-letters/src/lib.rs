#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod files;
mod format;
mod reading;

pub use files::DeadLetterFiles;
pub use format::{InvalidLetter, decode, encode};
pub use reading::{LetterLine, ReadError, read_folder};
