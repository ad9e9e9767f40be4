use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::settings::rules::violated;
use crate::settings::sizes;

/// How much memory fetched records may take.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{ByteSize, MemorySettings, Settings};
///
/// let memory = MemorySettings { budget: ByteSize::mib(64), ..MemorySettings::default() };
/// assert!(Settings { memory, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySettings {
    /// The most memory for records that were fetched and are not finished, over all shards of the worker; at least 32 MiB, 256 MiB by
    /// default. Half is assured to the shards in parts of up to 256 KiB, the other half is lent to those that have much to read. Records
    /// that your code keeps beyond their batch, and what a request brings until it is known to be more than there is room for, come on
    /// top. The Java KCL bounds the records of each shard instead (`maxByteSize`, `maxRecordsCount`).
    #[serde(with = "sizes")]
    pub budget: ByteSize,
    /// How many batches of a shard are fetched ahead of the processor, 1 to 16 (the Java KCL's `maxPendingProcessRecordsInput`). 2 by
    /// default: one is processed while the next is on its way.
    pub prefetch_batches: u32,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            budget: ByteSize::mib(256),
            prefetch_batches: 2,
        }
    }
}

impl MemorySettings {
    pub(crate) fn violations(&self) -> Vec<String> {
        violated([
            (
                self.budget < ByteSize::mib(32),
                "budget must be at least 32 MiB: a single answer of Kinesis takes up to 10",
            ),
            (
                !(1..=16).contains(&self.prefetch_batches),
                "prefetch_batches must be 1 to 16: each holds up to 10 MiB",
            ),
        ])
    }
}
