//! Reading the whole table, in pages and in parallel parts.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::Scan;

use crate::attributes;
use crate::client::TableClient;
use crate::codec::{DecodeError, Item, RowKind, decode_lease, decode_lock, decode_worker, kind};
use crate::errors::Failure;
use crate::layout::{Layout, Tables};

/// How much of a table DynamoDB reads for one page of a scan ("Paginating the results", 1 MB).
const PAGE_BYTES: usize = 1 << 20;

/// A scan with the row of the leader as it is stored.
#[derive(Debug, Default)]
pub(crate) struct TableRows {
    pub(crate) scan: Scan,
    pub(crate) lock: Option<Item>,
}

/// Reads all tables of an application once.
pub(crate) async fn scan_tables(tables: &Tables, segments: u32) -> Result<TableRows, Failure> {
    let mut rows = scan(&tables.leases, segments).await?;
    if tables.layout == Layout::One {
        return Ok(rows);
    }
    // What else is in the lease table is none of this layout's.
    rows.scan.workers.clear();
    rows.scan.lock = None;
    workers(&tables.workers, &mut rows.scan).await?;
    rows.lock = tables.coordinator.get(attributes::LEADER_KEY).await?;
    if let Some(item) = &rows.lock {
        match decode_lock(item) {
            Ok(lock) => rows.scan.lock = Some(lock),
            Err(error) => rows.scan.undecodable.push(error.of_row(item)),
        }
    }
    Ok(rows)
}

/// Reads a table that holds rows of workers alone.
pub(crate) async fn workers(client: &TableClient, scan: &mut Scan) -> Result<(), Failure> {
    let mut start = None;
    loop {
        let page = client.scan_page(0, 1, start).await?;
        for item in &page.items {
            match decode_worker(item) {
                Ok(worker) => scan.workers.push(worker),
                Err(error) => scan.undecodable.push(error.of_row(item)),
            }
        }
        start = page.next;
        if start.is_none() {
            return Ok(());
        }
        scan.pages = scan.pages.saturating_add(1);
    }
}

/// Reads the lease table once.
///
/// The pages are counted by what there was to read, so that they do not depend on the number of parts: each that was cut, and what the last
/// pages of all parts come to together. The cadence of scans follows from them, and a small table must not seem large.
pub(crate) async fn scan(client: &TableClient, segments: u32) -> Result<TableRows, Failure> {
    let segments = i32::try_from(segments).unwrap_or(i32::MAX).max(1);
    let parts = (0..segments).map(|segment| Box::pin(scan_segment(client, segment, segments)));
    let mut rows = TableRows::default();
    let whole = &mut rows.scan;
    let mut last_pages = 0;
    for part in all(parts.collect()).await {
        let (TableRows { scan: part, lock }, last_page) = part?;
        rows.lock = rows.lock.or(lock);
        whole.leases.extend(part.leases);
        whole.workers.extend(part.workers);
        whole.undecodable.extend(part.undecodable);
        whole.lock = whole.lock.take().or(part.lock);
        whole.pages += part.pages;
        last_pages += last_page;
    }
    let last_pages = u32::try_from(last_pages.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
    whole.pages = whole.pages.saturating_add(last_pages).max(1);
    Ok(rows)
}

/// Reads one part, counts the pages that were cut, and says how many bytes the last one had.
async fn scan_segment(
    client: &TableClient,
    segment: i32,
    segments: i32,
) -> Result<(TableRows, usize), Failure> {
    let mut rows = TableRows::default();
    let part = &mut rows.scan;
    let mut start = None;
    loop {
        let page = client.scan_page(segment, segments, start).await?;
        for item in &page.items {
            if let Err(error) = add_row(part, item) {
                part.undecodable.push(error.of_row(item));
            }
            if kind(item) == RowKind::Lock {
                rows.lock = Some(item.clone());
            }
        }
        start = page.next;
        if start.is_none() {
            return Ok((rows, page.items.iter().map(item_bytes).sum()));
        }
        part.pages += 1;
    }
}

/// About how many bytes an item counts for, as "DynamoDB item sizes and formats" says.
fn item_bytes(item: &Item) -> usize {
    let attributes = item.iter().map(|(name, value)| name.len() + value_size(value));
    attributes.sum()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the SDK's enum is open, and a truth value, a null and what comes later count as one byte"
)]
fn value_size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        // Two digits a byte, and one.
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(numbers) => numbers.iter().map(|digits| digits.len().div_ceil(2) + 1).sum(),
        AttributeValue::Bs(many) => many.iter().map(|bytes| bytes.as_ref().len()).sum(),
        AttributeValue::L(values) => values.iter().map(|value| 1 + value_size(value)).sum::<usize>() + 3,
        AttributeValue::M(values) => {
            let values = values.iter();
            values
                .map(|(name, value)| 1 + name.len() + value_size(value))
                .sum::<usize>()
                + 3
        }
        _ => 1,
    }
}

/// Puts a row where it belongs.
pub(crate) fn add_row(scan: &mut Scan, item: &Item) -> Result<(), DecodeError> {
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
    use kcl_core::lease_store::Lease;
    use kcl_core::types::Position;

    use super::*;
    use crate::codec::{client_version_item, creation_item, s};

    #[test]
    fn broken_row_is_listed_other_kinds_are_skipped() {
        let lease = Lease::unowned("shardId-1".parse().unwrap(), Position::Latest);
        let mut broken = creation_item(&lease);
        broken.remove(attributes::COUNTER);
        let mut scan = Scan::default();
        add_row(&mut scan, &creation_item(&lease)).unwrap();
        let (application, worker) = ("app".parse().unwrap(), "worker-1".parse().unwrap());
        let version = client_version_item(&application, &worker, kcl_core::types::Timestamp::from_millis(0));
        add_row(&mut scan, &version).unwrap();
        let mut future = creation_item(&lease);
        future.insert(attributes::ENTITY_TYPE.to_owned(), s("OF_THE_FUTURE"));
        add_row(&mut scan, &future).unwrap();
        assert_eq!(scan.leases, [lease]);
        assert_eq!(scan.workers, []);
        assert_eq!(
            add_row(&mut scan, &broken).unwrap_err().of_row(&broken).key,
            "shardId-1"
        );
    }

    #[test]
    fn item_is_as_large_as_names_and_values() {
        let nested = [("n".to_owned(), AttributeValue::N("1234567".to_owned()))];
        let item = Item::from([
            ("leaseKey".to_owned(), s("shardId-1")),
            (
                "parents".to_owned(),
                AttributeValue::Ss(vec!["a".to_owned(), "bc".to_owned()]),
            ),
            ("more".to_owned(), AttributeValue::M(nested.into())),
            ("flag".to_owned(), AttributeValue::Bool(true)),
        ]);
        assert_eq!(
            item_bytes(&item),
            (8 + 9) + (7 + 3) + (4 + 3 + 1 + 1 + 5) + (4 + 1)
        );
    }

    #[test]
    fn report_makes_row_at_most_200_bytes_longer() {
        let digits = "9".repeat(56);
        let text = format!(
            "t9999999999 b9999999999 f9999999999 p9999999999 winitialize cnot_checkpointed a99999 r999999999 o999999999 s-99999 x{digits}/99999"
        );
        let report: kcl_core::lease_store::ShardReport = text.parse().unwrap();
        assert_eq!((report.to_string(), text.len() <= 190), (text, true));
        let bare = Lease::unowned("shardId-1".parse().unwrap(), Position::Latest);
        let with_report = Lease {
            report: Some(Box::new(report)),
            ..bare.clone()
        };
        let bytes = |lease: &Lease| item_bytes(&creation_item(lease));
        assert!(bytes(&with_report) - bytes(&bare) <= 200);
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
