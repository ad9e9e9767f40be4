//! Shard iterators and the tokens of listings, as texts that only this server reads.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kcl_core::clock::Moment;
use kcl_core::types::ShardId;
use kcl_lease_memory::server::Place;

/// A shard iterator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardIterator {
    pub(super) stream: String,
    pub(super) shard: ShardId,
    pub(super) place: Place,
    pub(super) minted: Moment,
}

impl ShardIterator {
    pub(super) fn encode(&self) -> String {
        let Place {
            generation,
            epoch,
            from,
        } = self.place;
        encode(&[
            "iterator",
            &self.stream,
            self.shard.as_str(),
            &generation.to_string(),
            &epoch.to_string(),
            &from.to_string(),
            &millis(self.minted).to_string(),
        ])
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let parts = decode(text)?;
        let [kind, stream, shard, generation, epoch, from, minted] = parts.as_slice() else {
            return None;
        };
        (kind == "iterator").then_some(())?;
        Some(Self {
            stream: stream.clone(),
            shard: ShardId::new(shard).ok()?,
            place: Place {
                generation: generation.parse().ok()?,
                epoch: epoch.parse().ok()?,
                from: from.parse().ok()?,
            },
            minted: moment(minted)?,
        })
    }
}

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NextToken {
    pub(super) stream: String,
    /// The filter of the listing, as whoever lists writes it.
    pub(super) filter: String,
    /// The last entry of the page before.
    pub(super) last: String,
    pub(super) minted: Moment,
}

impl NextToken {
    pub(super) fn encode(&self) -> String {
        encode(&[
            "token",
            &self.stream,
            &self.filter,
            &self.last,
            &millis(self.minted).to_string(),
        ])
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let parts = decode(text)?;
        let [kind, stream, filter, last, minted] = parts.as_slice() else {
            return None;
        };
        (kind == "token").then_some(())?;
        Some(Self {
            stream: stream.clone(),
            filter: filter.clone(),
            last: last.clone(),
            minted: moment(minted)?,
        })
    }
}

/// The names that go in hold no line break.
fn encode(parts: &[&str]) -> String {
    STANDARD.encode(parts.join("\n"))
}

fn decode(text: &str) -> Option<Vec<String>> {
    let bytes = STANDARD.decode(text).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    Some(text.split('\n').map(str::to_owned).collect())
}

fn millis(moment: Moment) -> u128 {
    moment.since_origin().as_millis()
}

fn moment(millis: &str) -> Option<Moment> {
    Some(Moment::from_origin(Duration::from_millis(millis.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_garbage_is_not() {
        let iterator = ShardIterator {
            stream: "trucks".to_owned(),
            shard: ShardId::new("shardId-000000000003").unwrap(),
            place: Place {
                generation: 1,
                epoch: 2,
                from: 77,
            },
            minted: Moment::from_origin(Duration::from_millis(1234)),
        };
        let text = iterator.encode();
        assert_eq!(ShardIterator::decode(&text), Some(iterator));
        for garbage in ["", "AAAA", "no base64!", &text[4..]] {
            assert_eq!(ShardIterator::decode(garbage), None);
            assert_eq!(NextToken::decode(garbage), None);
        }
        assert_eq!(NextToken::decode(&text), None);
    }
}
