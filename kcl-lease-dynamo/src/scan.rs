//! Reading the whole table, in pages and in parallel parts.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use kcl_core::lease::{Scan, StoreError};

use crate::client::TableClient;
use crate::codec::{DecodeError, Item, RowKind, decode_lease, decode_lock, decode_worker, kind};

/// Reads everything once.
pub(crate) async fn scan(client: &TableClient, segments: u32) -> Result<Scan, StoreError> {
    let segments = i32::try_from(segments).unwrap_or(i32::MAX).max(1);
    let parts = (0..segments).map(|segment| Box::pin(scan_segment(client, segment, segments)));
    let mut whole = Scan::default();
    for part in all(parts.collect()).await {
        let part = part?;
        whole.leases.extend(part.leases);
        whole.workers.extend(part.workers);
        whole.undecodable.extend(part.undecodable);
        whole.lock = whole.lock.or(part.lock);
        whole.pages += part.pages;
    }
    Ok(whole)
}

async fn scan_segment(client: &TableClient, segment: i32, segments: i32) -> Result<Scan, StoreError> {
    let mut part = Scan::default();
    let mut start = None;
    loop {
        let page = client.scan_page(segment, segments, start).await?;
        part.pages += 1;
        for item in &page.items {
            if let Err(error) = sort_in(&mut part, item) {
                part.undecodable.push(error.of_row(item));
            }
        }
        start = page.next;
        if start.is_none() {
            return Ok(part);
        }
    }
}

/// Puts a row where it belongs.
pub(crate) fn sort_in(scan: &mut Scan, item: &Item) -> Result<(), DecodeError> {
    match kind(item) {
        RowKind::Lease => scan.leases.push(decode_lease(item)?),
        RowKind::Worker => scan.workers.push(decode_worker(item)?),
        RowKind::Lock => scan.lock = Some(decode_lock(item)?),
        RowKind::Other => {}
    }
    Ok(())
}

/// Waits for all, in the given order. Few enough that each wake-up may poll every one.
async fn all<F: Future>(mut futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    let mut outputs = futures.iter().map(|_| None).collect::<Vec<_>>();
    poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use kcl_core::lease::Lease;
    use kcl_core::model::Position;

    use super::*;
    use crate::attr;
    use crate::codec::{client_version_item, creation_item, s};

    #[test]
    fn a_broken_row_is_listed_and_rows_of_other_kinds_are_skipped() {
        let lease = Lease::unowned("shardId-1".parse().unwrap(), Position::Latest);
        let mut broken = creation_item(&lease);
        broken.remove(attr::COUNTER);
        let mut scan = Scan::default();
        sort_in(&mut scan, &creation_item(&lease)).unwrap();
        let (application, worker) = ("app".parse().unwrap(), "worker-1".parse().unwrap());
        let version = client_version_item(&application, &worker, kcl_core::time::Timestamp::from_millis(0));
        sort_in(&mut scan, &version).unwrap();
        let mut future = creation_item(&lease);
        future.insert(attr::ENTITY_TYPE.to_owned(), s("OF_THE_FUTURE"));
        sort_in(&mut scan, &future).unwrap();
        assert_eq!(scan.leases, [lease]);
        assert_eq!(scan.workers, []);
        assert_eq!(
            sort_in(&mut scan, &broken).unwrap_err().of_row(&broken).key,
            "shardId-1"
        );
    }

    #[tokio::test]
    async fn all_futures_are_waited_for_in_order() {
        let (send, receive) = tokio::sync::oneshot::channel::<u8>();
        type Boxed = Pin<Box<dyn Future<Output = u8>>>;
        let first: Boxed = Box::pin(async { receive.await.unwrap() });
        let second: Boxed = Box::pin(async move {
            send.send(1).unwrap();
            2
        });
        assert_eq!(all(vec![Box::pin(first), Box::pin(second)]).await, [1, 2]);
    }
}
