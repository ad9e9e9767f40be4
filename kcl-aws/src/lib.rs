//! The parts about AWS that `kcl-kinesis` and `kcl-lease-dynamo` share, so that a call that fails means the same in both.
//!
//! This crate is a part of those two. Applications do not use it, and its interface may change with every release.
//!
//! - [`Arn`] and what it names: everything that an ARN says is checked where it is read.
//! - [`Code`]: what an error code of AWS means, wherever it comes from.
//! - [`Unsent`]: what kept the SDK from sending a request.
//! - [`quotable`], [`quotable_code`] and [`story`]: the text of an error without what must not be logged.
//! - [`Credentials`]: loads that outlive the calls that wait for them.
//! - [`Caller`]: one call with a deadline, signed with the right time.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arn;
mod call;
mod code;
mod credentials;
mod text;
mod unsent;

pub use arn::{Arn, ConsumerArn, InvalidArn, OtherRegion, StreamArn, TableArn, partition_of};
pub use call::{Attempt, Caller, Late};
pub use code::Code;
pub use credentials::Credentials;
pub use text::{quotable, quotable_code, story};
pub use unsent::Unsent;
