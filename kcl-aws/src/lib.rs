//! The parts about AWS that `kcl-kinesis`, `kcl-lease-dynamo` and `kcl-cloudwatch` share, so that a call that fails means the same in all.
//!
//! This crate is a part of those. Applications do not use it, and its interface may change with every release.
//!
//! - [`Arn`] and what it names: everything that an ARN says is checked where it is read.
//! - [`CommonError`]: what an error code of AWS means, wherever it comes from.
//! - [`UnsentReason`]: what kept the SDK from sending a request.
//! - [`TransportError`] and [`service_error_text`]: what an error of the SDK means, and its text.
//! - [`redacted_message`], [`redacted_code`] and [`error_chain`]: the text of an error without what must not be logged.
//! - [`CredentialsCache`]: loads that outlive the calls that wait for them.
//! - [`Caller`]: one call with a deadline, signed with the right time.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arn;
mod call;
mod common_error;
mod credentials;
mod redaction;
mod sdk_error;
mod unsent_reason;

pub use arn::{Arn, ConsumerArn, InvalidArn, OtherRegion, StreamArn, TableArn, partition_of};
pub use call::{Attempt, CallTimeout, Caller};
pub use common_error::CommonError;
pub use credentials::CredentialsCache;
pub use redaction::{error_chain, redacted_code, redacted_message};
pub use sdk_error::{TransportError, service_error_text};
pub use unsent_reason::UnsentReason;
