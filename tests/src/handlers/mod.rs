//! Handlers that note their calls, the judgement on their order by key, and a walk with them through a split and a merge.

mod calls;
mod walk;

pub use calls::{KEYLESS, KeyCaller, KeyCalls};
pub use walk::walk_by_key;
