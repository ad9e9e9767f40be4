//! Trucks that send their positions, and the processor that takes them in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use kinesis_client::{ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom, async_trait};

use crate::ledger::Ledger;

/// One message of a truck: its number in the sequence of that truck's messages, and where the truck is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TruckPosition {
    /// The truck.
    pub truck: u32,
    /// Counts the truck's messages from 1.
    pub number: u32,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

impl TruckPosition {
    /// The message with this number of a truck that drives north-east from its own place.
    pub fn of(truck: u32, number: u32) -> Self {
        let (start, way) = (f64::from(truck) / 10.0, f64::from(number) / 1000.0);
        Self {
            truck,
            number,
            latitude: 45.0 + start + way,
            longitude: 5.0 + start + way,
        }
    }

    /// The key that keeps a truck's messages in order: they all go to one shard.
    pub fn partition_key(&self) -> String {
        format!("truck-{:03}", self.truck)
    }
}

impl fmt::Display for TruckPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            truck,
            number,
            latitude,
            longitude,
        } = self;
        write!(f, "{truck};{number};{latitude:.4};{longitude:.4}")
    }
}

/// The text is not a truck's message.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAPosition;

impl fmt::Display for NotAPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is truck;number;latitude;longitude")
    }
}

impl std::error::Error for NotAPosition {}

impl FromStr for TruckPosition {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let mut parts = text.split(';');
        let mut part = || parts.next().ok_or(NotAPosition);
        Ok(Self {
            truck: part()?.parse().map_err(|_| NotAPosition)?,
            number: part()?.parse().map_err(|_| NotAPosition)?,
            latitude: part()?.parse().map_err(|_| NotAPosition)?,
            longitude: part()?.parse().map_err(|_| NotAPosition)?,
        })
    }
}

/// Tracks the positions of one shard.
#[derive(Debug)]
pub struct TruckTracker {
    ledger: Arc<Ledger>,
}

impl TruckTracker {
    /// A tracker that writes what it processes into the ledger.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger }
    }
}

#[async_trait]
impl RecordProcessor for TruckTracker {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.ledger.began(shard);
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        for record in &batch {
            let text = std::str::from_utf8(record.data())
                .map_err(|error| ProcessorError::poison(error).at(record))?;
            text.parse::<TruckPosition>()
                .map_err(|error| ProcessorError::poison(error).at(record))?;
            self.ledger.processed(shard, record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_the_way_through_a_stream() {
        let position = TruckPosition::of(17, 3);
        assert_eq!(
            position.to_string().parse(),
            Ok(TruckPosition {
                latitude: 46.703,
                longitude: 6.703,
                ..position
            })
        );
        assert_eq!("17;x;1;2".parse::<TruckPosition>(), Err(NotAPosition));
    }
}
