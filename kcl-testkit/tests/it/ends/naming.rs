//! Servers that name children before the end, and servers that ignore the filter of a listing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kcl_core::settings::Settings;
use kcl_core::source::{
    ChildShard, Fetch, FetchLimit, PageToken, RecordStream, ShardFilter, ShardPage, SourceError,
    StartPosition, StreamSource,
};
use kcl_core::types::{InitialPosition, ShardId, StreamIdentity};
use kcl_lease_memory::MemoryStream;
use kcl_testkit::faulty_stream::{EndFault, FaultyStream};

use crate::ends::bench::{Bench, SECOND};

/// How the server is odd.
#[derive(Debug, Default)]
struct Oddities {
    /// The children that each answer of a reader names.
    named: Mutex<Vec<ChildShard>>,
    /// The next listing shows nothing.
    lists_nothing: AtomicBool,
    /// No listing shows it.
    hidden: Mutex<Option<ShardId>>,
    /// Filters are ignored.
    ignores_filters: bool,
}

#[derive(Debug, Clone)]
struct Odd {
    source: FaultyStream<MemoryStream>,
    odd: Arc<Oddities>,
}

impl Odd {
    fn new(bench: &Bench, ignores_filters: bool) -> Self {
        let oddities = Oddities {
            ignores_filters,
            ..Oddities::default()
        };
        Self {
            source: bench.source.clone(),
            odd: Arc::new(oddities),
        }
    }
}

#[async_trait]
impl StreamSource for Odd {
    fn name(&self) -> &str {
        self.source.name()
    }

    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        self.source.identity().await
    }

    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        let filter = match self.odd.ignores_filters {
            true => ShardFilter::All,
            false => filter,
        };
        let mut page = self.source.shards(filter, page).await?;
        if self.odd.lists_nothing.swap(false, Ordering::Relaxed) {
            page.shards.clear();
        }
        let hidden = self.odd.hidden.lock().unwrap().clone();
        page.shards.retain(|shard| Some(&shard.id) != hidden.as_ref());
        Ok(page)
    }

    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        let inner = self.source.open(shard, start).await?;
        let odd = Arc::clone(&self.odd);
        Ok(Box::new(Naming { inner, odd }))
    }

    async fn open_closed(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        self.source.open_closed(shard, start).await
    }
}

/// Names children beside every answer and shows no end, if there are any to be named.
#[derive(Debug)]
struct Naming {
    inner: Box<dyn RecordStream>,
    odd: Arc<Oddities>,
}

#[async_trait]
impl RecordStream for Naming {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        let mut fetch = self.inner.next(limit).await?;
        fetch.children.clone_from(&self.odd.named.lock().unwrap());
        if !fetch.children.is_empty() && fetch.end.take().is_some() {
            fetch.wait = fetch.wait.max(SECOND / 5);
        }
        Ok(fetch)
    }
}

/// As ferrokinesis, which names the children beside records.
#[tokio::test(start_paused = true)]
async fn empty_listing_beside_named_children_ends_nothing() {
    let bench = Bench::new(1);
    bench.put("before");
    let odd = Odd::new(&bench, false);
    let mut settings = Settings::default();
    settings.reading.max_batch_records = 1;
    let _worker = bench.start_noting_on(odd.clone(), settings);
    bench.processes(&["before"], 25).await;
    let unread = ["1", "2", "3", "4"];
    unread.iter().for_each(|payload| bench.put(payload));
    bench.split();
    bench.put("child");
    let children = bench.stream.shards_snapshot().into_iter().skip(1);
    let child = |shard: kcl_core::source::Shard| ChildShard {
        id: shard.id,
        parents: shard.parents,
        hash_range: shard.hash_range,
    };
    *odd.odd.named.lock().unwrap() = children.map(|snapshot| child(snapshot.shard)).collect();
    odd.odd.lists_nothing.store(true, Ordering::Relaxed);
    bench
        .processes(&["before", "1", "2", "3", "4", "child"], 60)
        .await;
}

/// One answer without content, of a shard that was closed after the start.
#[tokio::test(start_paused = true)]
async fn one_claim_leaves_out_no_unfiltered_shard() {
    let bench = Bench::new(1);
    let start = bench.stream.service_time();
    bench.put("parent");
    bench.split();
    bench.put("child");
    bench.err(EndFault::Claimed, Some(1));
    let mut settings = Settings::default();
    settings.reading.initial_position = InitialPosition::AtTimestamp(start);
    let _worker = bench.start_noting_on(Odd::new(&bench, true), settings);
    bench.processes(&["parent", "child"], 60).await;
}

/// A subscription does not show the end, and the children are read from the start of the application on.
#[tokio::test(start_paused = true)]
async fn silent_end_is_found_where_filters_are_ignored() {
    let bench = Bench::new(1);
    bench.put("parent");
    bench.split();
    bench.put("old");
    bench.sleep(60).await;
    bench.err(EndFault::Withheld, None);
    let mut settings = Settings::default();
    settings.reading.initial_position = InitialPosition::Latest;
    let _worker = bench.start_noting_on(Odd::new(&bench, true), settings);
    bench.sleep(60).await;
    bench.put("new");
    bench.processes(&["new"], 30).await;
}

/// Listings miss an open shard for five minutes.
#[tokio::test(start_paused = true)]
async fn shard_that_listings_miss_is_read_on() {
    let bench = Bench::new(2);
    let odd = Odd::new(&bench, false);
    let worker = bench.start_noting_on(odd.clone(), Settings::default());
    worker.wait_for(|status| status.leases.len() == 2).await;
    bench.put("0");
    let (shard, _) = bench.stream.put_log().pop().unwrap();
    *odd.odd.hidden.lock().unwrap() = Some(shard);
    let payloads: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for payload in payloads.iter().skip(1) {
        bench.sleep(10).await;
        bench.put(payload);
    }
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    bench.processes(&payloads, 30).await;
}
