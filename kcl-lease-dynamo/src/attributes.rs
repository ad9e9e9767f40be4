//! The names of the attributes, as the Java KCL 3.5 writes them (`DynamoDBLeaseSerializer`, `WorkerMetricStats`,
//! `MigrationState` and the DynamoDB lock client), and our private ones.
//!
//! Java touches attributes one by one and ignores those that it does not know, so private ones survive it on leases and
//! worker rows. Only the lock row is replaced as a whole when Java takes the lock.

// Every row.
pub(crate) const KEY: &str = "leaseKey";
pub(crate) const ENTITY_TYPE: &str = "entityType";

// Leases.
pub(crate) const OWNER: &str = "leaseOwner";
pub(crate) const CHECKPOINT_OWNER: &str = "checkpointOwner";
pub(crate) const COUNTER: &str = "leaseCounter";
pub(crate) const OWNER_SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const SUB_SEQUENCE: &str = "checkpointSubSequenceNumber";
pub(crate) const PENDING: &str = "pendingCheckpoint";
pub(crate) const PENDING_SUB_SEQUENCE: &str = "pendingCheckpointSubSequenceNumber";
pub(crate) const PENDING_STATE: &str = "pendingCheckpointState";
pub(crate) const PARENTS: &str = "parentShardId";
pub(crate) const CHILDREN: &str = "childShardIds";
pub(crate) const HASH_START: &str = "startingHashKey";
pub(crate) const HASH_END: &str = "endingHashKey";
pub(crate) const THROUGHPUT: &str = "throughputKBps";
/// Only where the application reads many streams: `account:stream:creation`, in spite of its name.
pub(crate) const STREAM: &str = "streamName";
/// Only where the application reads many streams.
pub(crate) const SHARD: &str = "shardId";

// Leases, private.
pub(crate) const STAMP_INCARNATION: &str = "rsIncarnation";
pub(crate) const STAMP_COUNTER: &str = "rsCounter";
pub(crate) const HANDOFF_INCARNATION: &str = "rsHandoffIncarnation";
pub(crate) const FINISHED_AHEAD: &str = "rsFinishedAhead";
pub(crate) const PINNED_START: &str = "rsPinnedStart";
pub(crate) const LATEST_AT: &str = "rsLatestAt";
pub(crate) const RESET_AT: &str = "rsResetAt";
pub(crate) const REPORT: &str = "rsReport";
pub(crate) const ORDERS_ANSWERED: &str = "rsOrdersAnswered";
pub(crate) const ORDERS_REFUSED: &str = "rsOrdersRefused";
pub(crate) const OWNER_FAILOVER_MILLIS: &str = "rsFailoverMillis";
pub(crate) const STREAM_ARN: &str = "rsStreamArn";
pub(crate) const STREAM_NAME: &str = "rsStreamName";
pub(crate) const STREAM_CREATED: &str = "rsStreamCreated";

// Worker rows. The key is the worker id itself.
pub(crate) const UPDATED_SECS: &str = "lut";
pub(crate) const METRICS: &str = "sts";
pub(crate) const OPERATING_RANGE: &str = "opr";
pub(crate) const SUPPORT: &str = "sup";
pub(crate) const SUPPORT_UPDATED_SECS: &str = "slu";

// Worker rows, private.
pub(crate) const WORKER_INCARNATION: &str = "rsIncarnation";
pub(crate) const TOUCHES: &str = "rsTouches";
pub(crate) const FAILOVER_MILLIS: &str = "rsFailoverMillis";
pub(crate) const MAX_LEASES: &str = "rsMaxLeases";
pub(crate) const MAX_THROUGHPUT: &str = "rsMaxThroughputKBps";
pub(crate) const UPDATED_MILLIS: &str = "rsUpdatedMillis";

pub(crate) const STARTED_MILLIS: &str = "rsStartedMillis";
pub(crate) const VERSION: &str = "rsVersion";

// Leases and worker rows, private: the orders of operators.
pub(crate) const ORDERS: &str = "rsOrders";
pub(crate) const ORDERS_REVISION: &str = "rsOrdersRevision";

// The leader lock.
pub(crate) const LOCK_OWNER: &str = "ownerName";
pub(crate) const LOCK_DURATION: &str = "leaseDuration";
pub(crate) const LOCK_VERSION: &str = "recordVersionNumber";
pub(crate) const LOCK_RELEASED: &str = "isReleased";
/// Private: on every lock row of ours, and on none of Java's, which replaces the row as a whole.
pub(crate) const LOCK_IS_OURS: &str = "rsLock";
/// Private.
pub(crate) const LOCK_DEPUTY: &str = "rsDeputy";

// The client version.
pub(crate) const CLIENT_VERSION: &str = "cv";
pub(crate) const MODIFIED_BY: &str = "mb";
pub(crate) const MODIFIED_MILLIS: &str = "mts";
pub(crate) const HISTORY: &str = "h";
/// Private: whose table it is. Java changes this row attribute by attribute, so it stays; so do the next three.
pub(crate) const APPLICATION: &str = "rsApplication";
/// Private: which worker took the table over from a Java application, and when, in ms since 1970.
pub(crate) const TAKEN_OVER_BY: &str = "rsTakenOverBy";
pub(crate) const TAKEN_OVER_MILLIS: &str = "rsTakenOverMillis";
/// Private: the rows of Java workers that were watched standing still, so that they are watched once.
pub(crate) const OBSERVED_JAVA_ROWS: &str = "rsLeftOver";

// The state of the migration to one table, which the Java KCL 3.5 keeps in the coordinator table.
pub(crate) const TABLE_MIGRATION: &str = "tm";

/// The keys of the rows that are neither leases nor worker rows.
pub(crate) const LEADER_KEY: &str = "Leader";
pub(crate) const CLIENT_VERSION_KEY: &str = "Migration3.0";
pub(crate) const TABLE_MIGRATION_KEY: &str = "TableMigration3.5";

/// The keys of the two further tables of the Java KCL 3.0 to 3.4.
pub(crate) const WORKER_TABLE_KEY: &str = "wid";
pub(crate) const COORDINATOR_TABLE_KEY: &str = "key";

/// The values of `entityType`. A row without one is a lease, because the KCL before 3.5 wrote none.
pub(crate) const LEASE_ENTITY: &str = "LEASE";
pub(crate) const WORKER_ENTITY: &str = "WORKER_METRIC_STATS";
pub(crate) const LEADER_ENTITY: &str = "LEADER";
pub(crate) const CLIENT_VERSION_ENTITY: &str = "CLIENT_VERSION_MIGRATION";

/// The values of `cv` that matter here.
pub(crate) const CLIENT_VERSION_3X: &str = "CLIENT_VERSION_3X";
pub(crate) const CLIENT_VERSION_INIT: &str = "CLIENT_VERSION_INIT";

/// The values of `tm` that matter here.
pub(crate) const TABLE_MIGRATION_PENDING: &str = "TABLE_MIGRATION_STATUS_PENDING";
pub(crate) const TABLE_MIGRATION_COMPLETE: &str = "TABLE_MIGRATION_STATUS_COMPLETE";

/// The index by which a worker finds its leases; the name is the Java KCL's.
pub(crate) const OWNER_INDEX: &str = "LeaseOwnerToLeaseKeyIndex";
