//! Decides whether a shard has ended.
//!
//! An end with children that fit the shard is an end. Everything else that looks like one is a claim, which a listing and a fresh reader
//! have to bear out: answers are incomplete, servers differ, and a shard that is ended in error is never read again.

use std::time::Duration;

use crate::lease::row::Lease;
use crate::lease::shard_end_plan::check_end;
use crate::retrieval::read_position::ResumeCheck;
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Moment;
use crate::runtime::failpoint::failpoint;
use crate::source::shard_graph::ShardGraph;
use crate::source::{ChildShard, EndDoubt, ShardEnd};
use crate::streams::listing::ListingError;
use crate::types::ShardId;

/// The known facts about the end of one shard while it is read.
#[derive(Debug, Default)]
pub(crate) struct EndCheck {
    /// A listing showed the shard closed. It stays closed.
    closed: bool,
    /// The reader at hand was opened after that, behind the last record, and has brought nothing since.
    is_fresh: bool,
    /// The children that an answer named without ending the shard.
    named: Vec<ChildShard>,
    /// Why it is time to look, if it is.
    asked: Option<ListingCause>,
    /// How often in a row it looked in vain.
    tries: u32,
    /// How many fresh readers in a row have claimed the end, and since when, without the record at which they began in the same answer.
    claims: u32,
    claimed: Option<Moment>,
}

/// Why a listing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ListingCause {
    /// The source names children and does not end the shard.
    Named,
    /// The service does not find the shard.
    NotFound,
    /// The source claims the end, and its reader is at an end.
    Claimed,
}

/// The part of an answer that is about the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EndEvidence {
    /// Nothing.
    Nothing,
    /// The shard has ended.
    Ended(ShardEnd),
    /// The shard may have ended: that is to be [looked into](EndCheck::is_asked).
    Claim,
}

/// The shard in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListingEvidence {
    Open,
    Closed,
    /// It is not listed.
    Not,
    /// The shards could not be listed.
    Unknown,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EndStep {
    /// The shard has ended.
    End(ShardEnd),
    /// Read on with the reader at hand.
    ReadOn,
    /// Open the shard again behind the last record, after a pause.
    Reopen {
        after: Duration,
        doubt: Option<EndDoubt>,
    },
}

impl ListingEvidence {
    pub(crate) fn of(shard: &ShardId, listing: Result<&ShardGraph, &ListingError>) -> Self {
        match listing.map(|graph| graph.get(shard)) {
            Ok(Some(shard)) if shard.closed => Self::Closed,
            Ok(Some(_)) => Self::Open,
            Ok(None) => Self::Not,
            Err(_) => Self::Unknown,
        }
    }
}

impl EndCheck {
    /// A reader was opened behind the last record.
    pub(crate) fn opened(&mut self) {
        self.is_fresh = self.closed;
    }

    /// Whether the shard was seen closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it is time to ask a listing.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether a listing may show something new: a closed shard stays closed, but not listed for ever.
    pub(crate) fn needs_listing(&self) -> bool {
        !self.closed || self.asked == Some(ListingCause::NotFound)
    }

    /// The service does not find the shard.
    pub(crate) fn not_found(&mut self) {
        self.asked = self.asked.max(Some(ListingCause::NotFound));
    }

    /// Notes which children a listing names that does not show the shard. If the service does not find it either, and they hold all its
    /// keys, it is gone, and they take its place. Returns `true` if so.
    pub(crate) fn gone(&mut self, row: &Lease, listed: ShardEnd) -> bool {
        let is_gone = self.asked == Some(ListingCause::NotFound)
            && self.named.is_empty()
            && row.hash_range.is_some()
            && is_plausible(row, &listed);
        if is_gone {
            self.named = listed.children;
        }
        is_gone
    }

    /// Observes an answer with records that were not handed on before.
    pub(crate) fn brought_records(&mut self) {
        (self.is_fresh, self.tries, self.claims, self.claimed) = (false, 0, 0, None);
    }

    /// Observes an answer that shows a place to go on and names no children. Returns `true` if that ends every suspicion: an open shard is read
    /// on, while of a closed one the end is to come.
    pub(crate) fn went_on(&mut self) -> bool {
        if !self.closed {
            self.tries = 0;
        }
        !self.closed
    }

    /// Notes what an answer says of the end, after its records.
    ///
    /// An answer that claims the end and shows the record at which its reader was opened has read there, up to the end. One without that
    /// record may be incomplete: a few readers in a row must say so. A reader that never showed the record may have answered without reading,
    /// or retention took the record: such readers must say so for a while.
    pub(crate) fn told(
        &mut self,
        row: &Lease,
        shown: ResumeCheck,
        now: Moment,
        end: Option<ShardEnd>,
        named: Vec<ChildShard>,
    ) -> EndEvidence {
        let named = ShardEnd { children: named };
        if is_plausible(row, &named) {
            self.named = named.children;
            if !self.closed {
                self.asked = self.asked.max(Some(ListingCause::Named));
            }
        }
        let Some(end) = end else {
            return EndEvidence::Nothing;
        };
        if is_plausible(row, &end) || end.children.is_empty() && failpoint!(EndWithoutChildrenBelieved) {
            return EndEvidence::Ended(end);
        }
        if self.is_fresh {
            self.claims = self.claims.saturating_add(1);
            let claimed = now.saturating_since(*self.claimed.get_or_insert(now));
            let is_borne_out = match shown {
                ResumeCheck::Now => true,
                ResumeCheck::Before => self.claims >= CLAIMS,
                ResumeCheck::Never => self.claims >= CLAIMS && claimed >= BLIND_FOR,
            };
            if is_borne_out {
                return EndEvidence::Ended(self.own_end());
            }
        }
        self.asked = Some(ListingCause::Claimed);
        EndEvidence::Claim
    }

    /// A listing was asked because of a claim.
    pub(crate) fn looked(&mut self, listed: ListingEvidence) -> EndStep {
        let asked = self.asked.take();
        match asked {
            Some(ListingCause::Claimed) => self.tries = self.tries.saturating_add(1),
            Some(ListingCause::NotFound) if failpoint!(NotFoundBelieved) => {
                return EndStep::End(self.own_end());
            }
            Some(ListingCause::NotFound) if listed != ListingEvidence::Not => return EndStep::ReadOn,
            Some(ListingCause::NotFound | ListingCause::Named) | None => {}
        }
        let doubt = match listed {
            ListingEvidence::Closed => {
                // The reader that claimed the end may have been opened before the last record was put.
                self.closed = true;
                EndDoubt::NoEnd
            }
            // A listing may be incomplete, and the reader may have more to bring.
            _ if asked == Some(ListingCause::Named) => return EndStep::ReadOn,
            ListingEvidence::Not if !self.named.is_empty() => return EndStep::End(self.own_end()),
            _ if asked == Some(ListingCause::NotFound) => return EndStep::ReadOn,
            ListingEvidence::Open => EndDoubt::ListedOpen,
            ListingEvidence::Not => EndDoubt::NotListed,
            ListingEvidence::Unknown => EndDoubt::CannotList,
        };
        // A suspicion that a second look clears up is not shown.
        let pause = match (listed, self.tries) {
            (ListingEvidence::Closed, 0 | 1) => Duration::ZERO,
            (_, tries) => Backoff::new(FIRST_PAUSE, LONGEST_PAUSE).after(tries),
        };
        let tries = match listed {
            ListingEvidence::Closed => TRIES_IF_CLOSED,
            ListingEvidence::Open | ListingEvidence::Not | ListingEvidence::Unknown => TRIES,
        };
        EndStep::Reopen {
            after: pause,
            doubt: (self.tries >= tries).then_some(doubt),
        }
    }

    /// A listing was asked because nothing has come for a while.
    pub(crate) fn idled(&mut self, listed: ListingEvidence) -> EndStep {
        match listed {
            ListingEvidence::Closed => {
                let doubt = self.closed.then_some(EndDoubt::NoEnd);
                self.closed = true;
                EndStep::Reopen {
                    after: Duration::ZERO,
                    doubt,
                }
            }
            ListingEvidence::Not if !self.named.is_empty() => EndStep::End(self.own_end()),
            // The reader at hand is no worse than another; what it answers, or not, is judged elsewhere.
            ListingEvidence::Open | ListingEvidence::Not | ListingEvidence::Unknown => EndStep::ReadOn,
        }
    }

    /// The end with the children that are known. Without any they are looked up when it is stored.
    fn own_end(&self) -> ShardEnd {
        ShardEnd {
            children: self.named.clone(),
        }
    }
}

/// Whether these are children of the shard, and all of them.
fn is_plausible(row: &Lease, end: &ShardEnd) -> bool {
    !end.children.is_empty() && check_end(row, end).is_ok()
}

/// The pause after the first look that was in vain, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so many looks in a row that were in vain the suspicion is shown.
const TRIES: u32 = 5;
/// The same of a closed shard, whose end is believed by then as a rule.
const TRIES_IF_CLOSED: u32 = 15;
/// After so many fresh readers in a row that claim the end in an answer without the record at which they began, the end is believed.
const CLAIMS: u32 = 3;
/// For so long at least readers that never showed the record must claim the end.
const BLIND_FOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
