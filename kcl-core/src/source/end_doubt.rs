use std::fmt;

use serde::Serialize;

/// Why it is not known whether a shard has ended. The shard is neither ended nor left: the worker goes on asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndDoubt {
    /// The source claims the end again and again, and the listing shows the shard open.
    ListedOpen,
    /// The listing shows the shard closed, and no reader brings records or the end.
    NoEnd,
    /// The source claims the end, and the shard is not listed any more.
    NotListed,
    /// The source claims the end, and the shards cannot be listed.
    CannotList,
}

impl fmt::Display for EndDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ListedOpen => "the source claims the end of a shard that is listed open",
            Self::NoEnd => "the shard is listed closed, and brings neither records nor its end",
            Self::NotListed => "the source claims the end of a shard that is not listed any more",
            Self::CannotList => "the source claims the end of the shard, and the shards cannot be listed",
        })
    }
}
