//! Randomness, as an injected value: one seed, and named streams derived from it.

use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A seeded source of randomness.
///
/// A child is derived by name, so that adding one consumer of randomness does not shift the numbers another one sees.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::clock::Rng;
///
/// let root = Rng::from_seed(7);
/// assert_eq!(root.child("renew").below(100), root.child("renew").below(100));
/// ```
#[derive(Debug, Clone)]
pub struct Rng {
    root: ChaCha8Rng,
    stream: u64,
    numbers: ChaCha8Rng,
}

impl Rng {
    /// The numbers that belong to this seed: the same on every machine and in every version of this crate.
    pub fn from_seed(seed: u64) -> Self {
        let root = ChaCha8Rng::seed_from_u64(seed);
        Self {
            numbers: root.clone(),
            root,
            stream: 0,
        }
    }

    /// Numbers that nobody can foresee, from the operating system.
    pub fn from_entropy() -> Self {
        // A random UUID is the one draw on the system's entropy; everything else is derived from it.
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where unseeded randomness enters"
        )]
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        Self::from_seed(high ^ low.rotate_left(32))
    }

    /// The stream of numbers with this name.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        // FNV-1a over the parent's stream and the name: stable, and spread enough to keep a few dozen names apart.
        let stream = self
            .stream
            .to_le_bytes()
            .into_iter()
            .chain(name.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        let mut numbers = self.root.clone();
        numbers.set_stream(stream);
        Self {
            root: self.root.clone(),
            stream,
            numbers,
        }
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.numbers.random_range(0..bound)
        }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.numbers.next_u64()
    }

    /// Sixteen random bytes.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.numbers.fill_bytes(&mut bytes);
        bytes
    }

    /// A duration between half of `around` and the whole: enough spread to keep a fleet from marching in step.
    pub fn jittered(&mut self, around: Duration) -> Duration {
        let half = around / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX - 1);
        half + Duration::from_nanos(self.below(nanos + 1))
    }

    /// True once in `n` times; never when `n` is 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = |seed| {
            let mut rng = Rng::from_seed(seed);
            (rng.bits(), rng.bits())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn children_differ_by_name_whatever_was_drawn() {
        let mut root = Rng::from_seed(1);
        let before = root.child("a").bits();
        root.bits();
        assert_eq!(root.child("a").bits(), before);
        assert_ne!(root.child("b").bits(), before);
        assert_ne!(root.child("a").child("b").bits(), root.child("b").bits());
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let mut rng = Rng::from_seed(1);
        for _ in 0..1000 {
            let wait = rng.jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&wait.as_millis()), "{wait:?}");
        }
        assert_eq!(rng.jittered(Duration::ZERO), Duration::ZERO);
    }
}
