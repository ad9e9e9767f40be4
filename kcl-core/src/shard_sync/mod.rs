//! Makes the lease table follow the stream's shards.
