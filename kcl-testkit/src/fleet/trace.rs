use std::collections::VecDeque;
use std::fmt;

use kcl_core::clock::Moment;

/// Everything that happened, in order: a rolling hash over all, and the last lines.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    hash: u64,
    kept: usize,
    lines: VecDeque<String>,
}

impl Trace {
    /// A trace that keeps this many lines for a person to read.
    pub(super) fn new(kept: usize) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            kept,
            lines: VecDeque::new(),
        }
    }

    /// Adds an event worth reading.
    pub(super) fn line(&mut self, at: Moment, event: &dyn fmt::Display) {
        let line = format!("{:>12.6} s  {event}", at.since_origin().as_secs_f64());
        self.mix(line.bytes());
        self.lines.push_back(line);
        if self.lines.len() > self.kept {
            self.lines.pop_front();
        }
    }

    /// Adds an event that only the hash remembers.
    pub(super) fn mark(&mut self, at: Moment, process: &str, kind: u8) {
        let nanos = at.since_origin().as_nanos().to_le_bytes();
        self.mix(nanos.into_iter().chain(process.bytes()).chain([kind]));
    }

    // FNV-1a: the same in every version and on every machine, which the standard library's hasher does not promise.
    fn mix(&mut self, bytes: impl Iterator<Item = u8>) {
        self.hash = bytes.fold(self.hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
