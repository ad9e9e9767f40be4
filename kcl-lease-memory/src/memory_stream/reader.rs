//! The stream as a [`StreamSource`], and one open shard.

use std::time::Duration;

use async_trait::async_trait;
use kcl_core::source::{
    Arrival, Fetch, FetchLimit, PageToken, RecordStream, ShardFilter, ShardPage, SourceError,
    SourceErrorKind, StartPosition, StreamDescription, StreamSource,
};
use kcl_core::types::{Record, SequenceNumber, ShardId, StreamIdentity};

use super::MemoryStream;
use super::state::ShardIterator;

#[async_trait]
impl StreamSource for MemoryStream {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        self.travel().await;
        let state = self.state();
        if state.deleted {
            return Err(SourceError::new(
                SourceErrorKind::NotFound,
                "the stream is not there",
            ));
        }
        Ok(StreamIdentity {
            name: self.shared.name.clone(),
            arn: state.home.arn(&self.shared.name),
            created: state.created,
        })
    }

    /// How long records are kept: for ever, where nothing else is set.
    fn description(&self) -> StreamDescription {
        let retention = self.state().settings.retention;
        let mut description = StreamDescription::default();
        description.retention = Some(retention.unwrap_or(Duration::MAX));
        description
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        self.travel().await;
        let after = page.map(|PageToken(last)| ShardId::new(last)).transpose();
        let after = after
            .map_err(|_| SourceError::new(SourceErrorKind::Invalid, "the page token is not one of ours"))?;
        let service_time = self.service_time();
        let (shards, more) = self
            .state()
            .list(filter, after.as_ref(), self.shared.listing_page)?;
        let last = shards.last().filter(|_| more);
        Ok(ShardPage {
            next: last.map(|shard| PageToken(shard.id.to_string())),
            shards,
            service_time,
        })
    }

    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        self.travel().await;
        let (now, service_time) = (self.shared.clock.now(), self.service_time());
        let iterator = self.state().open(shard, &start, now, service_time)?;
        Ok(Box::new(MemoryRecords {
            stream: self.clone(),
            shard: shard.clone(),
            iterator,
            last: None,
        }))
    }
}

/// One open shard.
#[derive(Debug)]
struct MemoryRecords {
    stream: MemoryStream,
    shard: ShardId,
    iterator: ShardIterator,
    /// The last record that it brought.
    last: Option<SequenceNumber>,
}

#[async_trait]
impl RecordStream for MemoryRecords {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        let (fetch, iterator) = self.answer(limit).await?;
        Ok(self.moved(fetch, iterator))
    }

    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        let (fetch, iterator) = self.answer(limit).await?;
        if !fetch.records.is_empty() {
            arrival
                .announced(fetch.bytes as u64, Some(fetch.records.len()))
                .await;
        }
        Ok(self.moved(fetch, iterator))
    }
}

impl MemoryRecords {
    /// Asks. The reader moves only once the answer has arrived.
    async fn answer(&self, limit: FetchLimit) -> Result<(Fetch, ShardIterator), SourceError> {
        self.stream.travel().await;
        let (now, service_time) = (self.stream.shared.clock.now(), self.stream.service_time());
        let (answer, has_lost) = {
            let mut state = self.stream.state();
            let has_lost = state.has_lost(&self.shard, &self.iterator);
            let answer = state.read(&self.shard, self.iterator, limit, now, service_time);
            (answer, has_lost)
        };
        // The answer may be lost on its way back.
        self.stream.travel().await;
        let (mut fetch, iterator) = answer?;
        if has_lost && (!fetch.records.is_empty() || fetch.end.is_some()) {
            fetch.lost_place = self.last.clone();
        }
        Ok((fetch, iterator))
    }

    fn moved(&mut self, fetch: Fetch, iterator: ShardIterator) -> Fetch {
        self.iterator = iterator;
        if let Some(last) = fetch.records.last().map(Record::sequence_number) {
            self.last = Some(last.clone());
        }
        fetch
    }
}
