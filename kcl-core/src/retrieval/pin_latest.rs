//! Gives the rows at LATEST that Java wrote the time that this means.

use std::time::Duration;

use crate::error::Causes;
use crate::lease::change::LeaseChange;
use crate::lease::start_policy::PIN_MARGIN;
use crate::lifecycle::ConsumerEvent;
use crate::ownership::Ownership;
use crate::ownership::row_writes::WriteResult;
use crate::processor::StartFrom;
use crate::retrieval::start_position::needs_time;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::ClockExt as _;
use crate::runtime::log_once::LogOnce;
use crate::source::{ShardFilter, SourceError};
use crate::streams::pager::ShardPager;

/// The pauses between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Stores the time that LATEST means in a row which Java wrote, before the shard is opened there for the first time: neither a second
/// opening nor the next owner then skips what came meanwhile. Returns once it is there, or the lease is not this owner's any more.
pub(crate) async fn pin_latest(own: &Ownership, start_from: &StartFrom) -> Option<ConsumerEvent> {
    let clock = &own.worker.clock;
    let (mut pauses, mut said) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogOnce::default());
    while own.last_delivered().is_none() && needs_time(&own.row(), start_from) {
        let problem = match try_to_settle(own).await {
            Ok(WriteResult::Applied(row)) if row.latest_at.is_some() => {
                own.show(|facts| facts.trouble = None);
                return None;
            }
            // What shows as applied may be an earlier renewal, which brought no time.
            Ok(WriteResult::Applied(_)) => "another renewal came first".to_owned(),
            Ok(WriteResult::Lost | WriteResult::GivenUp(_)) => return Some(ConsumerEvent::LeaseLost),
            Ok(WriteResult::Failed(error)) => Causes(&error).to_string(),
            Err(error) => {
                if error.kind().is_answer() {
                    own.step();
                }
                own.show(|facts| facts.trouble = Some(error.kind()));
                Causes(&error).to_string()
            }
        };
        said.warn(
            "the time that LATEST means here is not stored yet; the shard is opened once it is",
            problem,
        );
        clock.sleep(pauses.failed()).await;
    }
    None
}

/// Asks the service what time it is, and stores that.
async fn try_to_settle(own: &Ownership) -> Result<WriteResult, SourceError> {
    let mut pager = ShardPager::once(&*own.stream.source, &*own.worker.clock);
    let page = pager.page(ShardFilter::Open, None).await?;
    let mut renewal = own.renewal();
    if let LeaseChange::Renew { facts, .. } = &mut renewal {
        facts.latest_at = Some(page.service_time.minus(PIN_MARGIN));
    }
    Ok(own.write(renewal).await)
}
