//! The records of a shard as the consumer takes them from the fetcher: batch by batch as they come, or gathered as the settings say.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::consumer::gathering::{GatherStep, Gathering};
use crate::ownership::Ownership;
use crate::processor::fetched_batch::FetchedBatch;
use crate::retrieval::fetcher::start_fetching;
use crate::retrieval::start_position::ReadStart;
use crate::runtime::clock::Moment;

/// The records that one fetcher brings. Dropped, it ends the fetcher, and what was gathered is fetched again.
pub(crate) struct FetchedRecords {
    receiver: mpsc::Receiver<FetchedBatch>,
    /// The batch under way, where batches are gathered.
    gathering: Option<Gathering>,
}

impl FetchedRecords {
    /// Begins to fetch. `gathers` is `true` where the settings may say how batches are gathered.
    pub(crate) fn begin(own: &Arc<Ownership>, start: ReadStart, gathers: bool) -> Self {
        let batching = own
            .worker
            .settings
            .processing
            .batching
            .clone()
            .filter(|_| gathers);
        Self {
            receiver: start_fetching(own, start),
            gathering: batching.map(Gathering::new),
        }
    }

    /// Waits for the next batch. Returns it, and `true` if a pause of the shard ended its gathering; `None` if the fetcher broke.
    ///
    /// Dropped, it loses nothing.
    pub(crate) async fn next(&mut self, own: &Ownership) -> Option<(FetchedBatch, bool)> {
        let Some(gathering) = &mut self.gathering else {
            return self.receiver.recv().await.map(|batch| (batch, false));
        };
        loop {
            let (is_paused, now) = (own.is_paused(), own.worker.clock.now());
            let is_broken = !is_paused && take_ready(&mut self.receiver, gathering, now);
            // Records that are gathered hold room, for which a fetcher may wait that is to bring more.
            let must_end = is_paused || is_broken || own.is_fetcher_starved();
            let until = match gathering.next_step(now, must_end) {
                GatherStep::Offer => {
                    let closed_by_pause = is_paused && gathering.wants_more();
                    return Some((gathering.take(), closed_by_pause));
                }
                GatherStep::Gather(_) if is_broken => return None,
                GatherStep::Gather(until) => until,
            };
            if is_paused {
                own.until_free(false, |reason| own.consumer_waits(reason)).await;
                own.wants_records();
                continue;
            }
            let time_is_up = async {
                match until {
                    Some(until) => own.worker.clock.sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                fetch = self.receiver.recv() => match fetch {
                    Some(fetch) => gathering.add(fetch, own.worker.clock.now()),
                    None if gathering.is_empty() => return None,
                    None => {}
                },
                () = own.paused() => {}
                () = own.fetcher_starves.notified() => {}
                () = time_is_up => {}
            }
        }
    }

    /// The batch under way, if anything is in it. Nothing more is fetched.
    pub(crate) fn into_gathered(self) -> Option<FetchedBatch> {
        let batch = self.gathering?.take();
        (!batch.is_empty()).then_some(batch)
    }
}

/// Takes the fetches that are there already. Returns `true` if the fetcher broke.
fn take_ready(receiver: &mut mpsc::Receiver<FetchedBatch>, gathering: &mut Gathering, now: Moment) -> bool {
    while gathering.wants_more() {
        match receiver.try_recv() {
            Ok(fetch) => gathering.add(fetch, now),
            Err(error) => return error == TryRecvError::Disconnected,
        }
    }
    false
}
