//! The lease store of `kcl-lease-dynamo` on real DynamoDB protocol servers: first what every lease store must do, then what is
//! particular to this one.

pub(crate) mod backend_specific;
pub(crate) mod backends;
mod conformance;
mod java;
mod options;
mod stored;
