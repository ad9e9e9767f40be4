//! From the source to a batch: reads a shard ahead of its consumer, unpacks aggregated records, and decides whether a shard has ended.

pub(crate) mod deaggregate;
pub(crate) mod end_check;
pub(crate) mod fetch_room;
pub(crate) mod fetcher;
pub(crate) mod gap_hold;
pub(crate) mod pin_latest;
pub(crate) mod read_position;
pub(crate) mod start_position;
