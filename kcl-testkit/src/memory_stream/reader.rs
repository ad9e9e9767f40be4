//! The stream as a [`StreamSource`], and one open shard of it.

use async_trait::async_trait;
use kcl_core::model::{ShardId, StreamIdentity};
use kcl_core::source::{
    Arrival, Fetch, FetchLimit, PageToken, RecordStream, ShardFilter, ShardPage, SourceError,
    SourceErrorKind, StartPosition, StreamSource,
};

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
            arn: self.arn(),
            created: state.created,
        })
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
        }))
    }
}

/// One open shard.
#[derive(Debug)]
struct MemoryRecords {
    stream: MemoryStream,
    shard: ShardId,
    iterator: ShardIterator,
}

#[async_trait]
impl RecordStream for MemoryRecords {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        let (fetch, iterator) = self.answer(limit).await?;
        self.iterator = iterator;
        Ok(fetch)
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
        self.iterator = iterator;
        Ok(fetch)
    }
}

impl MemoryRecords {
    /// Asks. The reader moves only once the answer has arrived.
    async fn answer(&self, limit: FetchLimit) -> Result<(Fetch, ShardIterator), SourceError> {
        self.stream.travel().await;
        let (now, service_time) = (self.stream.shared.clock.now(), self.stream.service_time());
        let answer = self
            .stream
            .state()
            .read(&self.shard, self.iterator, limit, now, service_time);
        // The answer may be lost on its way back.
        self.stream.travel().await;
        answer
    }
}
