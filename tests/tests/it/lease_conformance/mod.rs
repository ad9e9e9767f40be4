//! The lease store of `kcl-lease-dynamo` on real DynamoDB protocol servers: first what every lease store must do, then what is
//! particular to this one.

mod conformance;
mod ground;
mod java;
mod options;
mod particulars;
mod stored;
