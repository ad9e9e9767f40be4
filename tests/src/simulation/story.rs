//! What befalls a fleet, and when: a function of the seed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::settings::{Checkpointing, Settings};
use kcl_core::source::SourceErrorKind;
use kcl_testkit::faults::Link;
use kcl_testkit::faulty_stream::EndFault;

use super::conditions;

/// Something that happens to the fleet, or to one member of it whom the performer picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// A process ends without a word.
    Kill,
    /// A process ends without a word, and another with the same worker id starts at once.
    Restart,
    /// A process that is not there starts.
    Start,
    /// A process stands still for so long.
    Freeze(Duration),
    /// The process that leads stands still for so long, and then goes on with what it was about to do.
    FreezeLeader(Duration),
    /// The process that leads hears nothing of the lock that makes it the leader, for so long.
    SilentLock(Duration),
    /// Scans and look-ups show a worker, the leader if it can be, nothing newer than now, for so long.
    StaleReads(Duration),
    /// They show nobody anything newer than now, for so long.
    StaleIndex(Duration),
    /// A worker is asked to leave, and leaves.
    Drain,
    /// One worker after the other leaves and comes again, as in a deploy.
    Deploy,
    /// A shard is split.
    Split,
    /// Two shards are merged.
    Merge,
    /// Retention takes all but the last so many records of each shard.
    Trim(usize),
    /// A worker's way to the lease store, for so long.
    Link(Link, Duration),
    /// A worker reaches neither the lease store nor the stream, for so long.
    Partition(Duration),
    /// Nobody reaches the lease store, for so long.
    Outage(Duration),
    /// The lease store refuses every third call of everybody as too many, for so long.
    Throttle(Duration),
    /// The owner index of the lease store refuses everybody, for so long.
    IndexFails(Duration),
    /// The lease store answers one scan in three seconds, whoever asks, for so long.
    ScansAreFew(Duration),
    /// One worker after the other leaves, and comes again with another failover time: so many percent of the one of the story.
    Retime(u32),
    /// The reply to a worker's next change of a lease is lost.
    LoseReply,
    /// A worker's next change of a lease arrives so much later.
    DelayRequest(Duration),
    /// A worker's next scan is answered so much later: what it plans with is old.
    DelayReply(Duration),
    /// The stream fails a worker so many times like this.
    SourceFails(SourceErrorKind, u32),
    /// The stream never answers a worker's next reads.
    SourceHangs,
    /// The stream's next answers to a worker are lost.
    SourceLosesReplies,
    /// The stream answers a worker's next reads so much later.
    SourceIsSlow(Duration),
    /// The stream's next so many answers to a worker are wrong about the end of a shard.
    WrongEnds(EndFault, u32),
}

/// A stroke, and how long after the one before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The pause before it.
    pub after: Duration,
    /// What happens.
    pub stroke: Stroke,
}

/// What befalls a fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// Where all of it follows from.
    pub seed: u64,
    /// How many workers there may be at once: 3 to 6.
    pub members: usize,
    /// How many shards the stream begins with: 4 to 12.
    pub shards: u32,
    /// How every worker behaves.
    pub settings: Settings,
    /// How many records the producer packs into one, where it packs.
    pub packed: Option<u64>,
    /// The failover time of each worker in percent of the one in the settings, in their order; of those that are not here it is that one.
    pub failovers: Vec<u32>,
    /// Whether the owner index refuses everybody from the end of bad times on, as one of too little capacity does.
    pub index_stays_broken: bool,
    /// What happens.
    pub script: Vec<Turn>,
}

/// How long bad times last at least.
const BAD_TIMES: Duration = Duration::from_secs(250);
/// The longest pause between two strokes.
const LONGEST_PAUSE: u64 = 10_000;

impl Story {
    /// The story of this seed. In each a worker crashes or freezes, a shard is split, and more than five other things go wrong.
    pub fn of(seed: u64) -> Self {
        let mut story = Self::first_told(seed);
        // Numbers of its own: what was there before it stays as it was.
        let mut rng = Rng::from_seed(seed).child("later additions");
        if rng.one_in(3) {
            story.failovers = (0..MOST_MEMBERS).map(|_| percent(&mut rng)).collect();
        }
        story.index_stays_broken = rng.one_in(4);
        let mut more = vec![Stroke::IndexFails(millis(&mut rng, 60_000))];
        if rng.one_in(2) {
            more.push(Stroke::ScansAreFew(millis(&mut rng, 60_000)));
        }
        if rng.one_in(3) {
            // Half of these deploys shorten the failover time as much as can be.
            let shortens = rng.one_in(2);
            if shortens {
                story.failovers = vec![300; MOST_MEMBERS];
            }
            more.push(Stroke::Retime(if shortens { 50 } else { percent(&mut rng) }));
        }
        for stroke in more {
            // Behind what no story does without, and before the last.
            let place = 7 + pick(&mut rng, (story.script.len() - 7) as u64);
            let after = millis(&mut rng, LONGEST_PAUSE);
            story.script.insert(place, Turn { after, stroke });
        }
        story
    }

    /// The longest failover time that a worker of the story lives by.
    pub fn longest_failover(&self) -> Duration {
        let retimed = self.script.iter().filter_map(|turn| {
            let Stroke::Retime(percent) = turn.stroke else {
                return None;
            };
            Some(percent)
        });
        let longest = self.failovers.iter().copied().chain(retimed).fold(100, u32::max);
        self.settings.failover_time * longest / 100
    }

    /// How a worker behaves whose failover time is so many percent of the one of the story.
    pub fn settings_at(&self, percent: u32) -> Settings {
        let failover_time = self.settings.failover_time * percent / 100;
        Settings {
            failover_time,
            stall_timeout: self.settings.stall_timeout.max(failover_time),
            ..self.settings.clone()
        }
    }

    /// The story of this seed as it was before failover times differed and the index failed: what was once found in a story is in this one.
    pub fn first_told(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed).child("story");
        let members = 3 + pick(&mut rng, 4);
        let shards = 4 + u32::try_from(rng.below(9)).unwrap();
        let settings = Settings {
            checkpointing: checkpointing(seed),
            ..conditions::settings(&mut rng)
        };
        let packed = rng.one_in(4).then(|| 2 + rng.below(5));
        let mut script = Vec::new();
        let mut total = Duration::ZERO;
        while total < BAD_TIMES {
            let after = Duration::from_millis(rng.below(LONGEST_PAUSE));
            total += after;
            // What no story does without comes third and sixth.
            let stroke = match script.len() {
                3 => violence(&mut rng),
                6 => Stroke::Split,
                _ => any_stroke(&mut rng),
            };
            script.push(Turn { after, stroke });
        }
        Self {
            seed,
            members,
            shards,
            settings,
            packed,
            failovers: Vec::new(),
            index_stays_broken: false,
            script,
        }
    }
}

/// Whether the processors checkpoint by themselves. Drawn apart, so that all else of a story does not depend on it.
fn checkpointing(seed: u64) -> Checkpointing {
    match Rng::from_seed(seed).child("checkpointing").one_in(4) {
        true => Checkpointing::Manual,
        false => Checkpointing::Automatic,
    }
}

/// How many workers there may be, the one that joins at the end included.
const MOST_MEMBERS: usize = 7;

/// A failover time in percent of another: from half of it to three times as long. No shorter one is valid with every setting.
fn percent(rng: &mut Rng) -> u32 {
    let choice = [50, 75, 100, 150, 200, 300];
    choice[pick(rng, 6)]
}

fn pick(rng: &mut Rng, count: u64) -> usize {
    usize::try_from(rng.below(count)).unwrap()
}

fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.below(most))
}

fn violence(rng: &mut Rng) -> Stroke {
    match rng.below(4) {
        0 | 1 => Stroke::Kill,
        2 => Stroke::Restart,
        // Up to twice the failover time and more, and sometimes until everybody has forgotten it.
        _ if rng.one_in(8) => Stroke::Freeze(millis(rng, 120_000)),
        _ if rng.one_in(2) => Stroke::Freeze(millis(rng, 20_000)),
        _ => Stroke::FreezeLeader(millis(rng, 20_000)),
    }
}

fn any_stroke(rng: &mut Rng) -> Stroke {
    match rng.below(31) {
        0..=2 => violence(rng),
        3..=5 => Stroke::Start,
        6 => Stroke::Drain,
        7 if rng.one_in(3) => Stroke::Deploy,
        7 => Stroke::Start,
        8 | 9 => Stroke::Split,
        10 | 11 => Stroke::Merge,
        12 => Stroke::Trim(20 + pick(rng, 200)),
        13 => {
            let links = [Link::Refusing, Link::RequestsLost, Link::RepliesLost];
            Stroke::Link(links[pick(rng, 3)], millis(rng, 15_000))
        }
        14 => Stroke::Partition(millis(rng, 15_000)),
        15 if rng.one_in(3) => Stroke::Outage(millis(rng, 20_000)),
        15 => Stroke::Throttle(millis(rng, 20_000)),
        16 | 17 => Stroke::LoseReply,
        18 => Stroke::DelayRequest(millis(rng, 10_000)),
        19 => Stroke::DelayReply(millis(rng, 10_000)),
        20 => {
            let kinds = [
                (SourceErrorKind::Unavailable, 200),
                (SourceErrorKind::Throttled, 200),
                // A shard that is not found is asked for again after long pauses.
                (SourceErrorKind::NotFound, 3),
            ];
            let (kind, most) = kinds[pick(rng, 3)];
            let times = 1 + u32::try_from(rng.below(most)).unwrap();
            Stroke::SourceFails(kind, times)
        }
        21 => Stroke::SourceHangs,
        22 => Stroke::SourceLosesReplies,
        23 => Stroke::StaleReads(millis(rng, 20_000)),
        24 if rng.one_in(2) => Stroke::StaleIndex(millis(rng, 15_000)),
        24 => Stroke::SilentLock(millis(rng, 20_000)),
        25 => Stroke::FreezeLeader(millis(rng, 20_000)),
        26 => Stroke::SourceIsSlow(millis(rng, 8000)),
        27 => Stroke::Trim(pick(rng, 20)),
        28 => {
            let untrue = [EndFault::Claimed, EndFault::Strangers];
            // More in a row, all of one closed shard of which nothing was read, would be believed.
            let times = 1 + u32::try_from(rng.below(3)).unwrap();
            Stroke::WrongEnds(untrue[pick(rng, 2)], times)
        }
        _ => {
            let incomplete = [
                EndFault::WithoutChildren,
                EndFault::Half,
                EndFault::Withheld,
                EndFault::NamedBeside,
            ];
            let times = 1 + u32::try_from(rng.below(1000)).unwrap();
            Stroke::WrongEnds(incomplete[pick(rng, 4)], times)
        }
    }
}

impl Stroke {
    /// Everything that can happen, by the name that it is counted under.
    pub fn kinds() -> BTreeSet<&'static str> {
        let stories = (0..200).map(Story::of);
        let strokes = stories.flat_map(|story| story.script.into_iter().map(|turn| turn.stroke.kind()));
        strokes.collect()
    }

    /// What it is, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Freeze(_) => "freeze",
            Self::FreezeLeader(_) => "freeze of the leader",
            Self::SilentLock(_) => "leader cut off from its lock",
            Self::StaleReads(_) => "stale reads",
            Self::StaleIndex(_) => "stale index",
            Self::Drain => "drain",
            Self::Deploy => "deploy",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Trim(_) => "retention",
            Self::Link(Link::Refusing, _) => "store refuses one worker",
            Self::Link(Link::RequestsLost, _) => "requests to the store lost",
            Self::Link(..) => "replies of the store lost",
            Self::Partition(_) => "partition of one worker",
            Self::Outage(_) => "outage of the store",
            Self::Throttle(_) => "store throttles",
            Self::IndexFails(_) => "owner index fails",
            Self::ScansAreFew(_) => "scans throttled",
            Self::Retime(_) => "deploy with another failover time",
            Self::LoseReply => "reply lost after success",
            Self::DelayRequest(_) => "late write",
            Self::DelayReply(_) => "late answer to a scan",
            Self::SourceFails(SourceErrorKind::Throttled, _) => "stream throttles",
            Self::SourceFails(SourceErrorKind::NotFound, _) => "stream does not find a shard",
            Self::SourceFails(..) => "stream fails",
            Self::SourceHangs => "stream hangs",
            Self::SourceLosesReplies => "reply of the stream lost",
            Self::SourceIsSlow(_) => "stream is slow",
            Self::WrongEnds(EndFault::Claimed | EndFault::Strangers, _) => {
                "end claimed of a shard that goes on"
            }
            Self::WrongEnds(..) => "end of a shard shown in part or not at all",
        }
    }

    /// Whether a worker ends or stands still without being asked.
    pub fn is_violent(&self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Restart | Self::Freeze(_) | Self::FreezeLeader(_)
        )
    }

    /// Whether the shards of the stream change.
    pub fn reshards(&self) -> bool {
        matches!(self, Self::Split | Self::Merge)
    }

    /// Whether something goes wrong, and is not just operated.
    pub fn is_fault(&self) -> bool {
        !self.reshards() && !matches!(self, Self::Start | Self::Drain | Self::Deploy | Self::Retime(_))
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: up to {} workers, {} shards, records packed by {}, failover times of {:?} percent, index broken to the end: {}",
            self.seed,
            self.members,
            self.shards,
            self.packed.unwrap_or(1),
            self.failovers,
            self.index_stays_broken
        )?;
        writeln!(f, "{:#?}", self.settings)?;
        let mut at = Duration::ZERO;
        for turn in &self.script {
            at += turn.after;
            writeln!(f, "{:>9.3} s  {:?}", at.as_secs_f64(), turn.stroke)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_follows_from_its_seed_and_has_what_every_story_needs() {
        for seed in 0..500 {
            let story = Story::of(seed);
            assert_eq!(story, Story::of(seed));
            assert!((3..=6).contains(&story.members) && (4..=12).contains(&story.shards));
            let strokes = || story.script.iter().map(|turn| turn.stroke);
            assert!(strokes().any(|stroke| stroke.is_violent()), "{story}");
            assert!(strokes().any(|stroke| stroke.reshards()), "{story}");
            assert!(strokes().filter(Stroke::is_fault).count() >= 5, "{story}");
            assert_eq!(story.settings.validate(), Ok(()));
            for percent in [50, 75, 100, 150, 200, 300] {
                assert_eq!(story.settings_at(percent).validate(), Ok(()));
            }
            assert!(story.script.iter().map(|turn| turn.after).sum::<Duration>() >= BAD_TIMES);
        }
        assert_ne!(Story::of(1).script, Story::of(2).script);
    }
}
