//! The MD5 of many messages, computed side by side.
//!
//! One MD5 is a chain of steps that wait for each other, so a processor spends most of its time waiting. The messages of an answer do
//! not wait for each other: each is a lane of the same vectors. The crate for vectors chooses the widest that the processor has.

use std::cmp::Reverse;

use fearless_simd::{Level, Simd, dispatch, prelude::*, u32x4, u32x8};
use md5::{Digest as _, Md5};

pub(crate) type Digest = [u8; 16];

const BLOCK: usize = 64;
/// The lanes of one vector.
const WIDTH: usize = 8;
/// So many vectors are under way at a time: while one waits for its step, another takes its own.
const VECTORS: usize = 2;
const LANES: usize = WIDTH * VECTORS;
/// With fewer messages one after the other is as fast: nearly all lanes would be empty.
const FEWEST: usize = 3;

const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The integer part of 2³² times the sine of each of 1 to 64.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The MD5 of each message, in the order of the messages.
pub(crate) fn md5_of_each(messages: &[&[u8]]) -> Vec<Digest> {
    if messages.len() < FEWEST {
        return messages
            .iter()
            .map(|message| Md5::digest(message).into())
            .collect();
    }
    side_by_side(Level::new(), messages)
}

/// Longest first: so the lanes stay full until near the end.
fn side_by_side(level: Level, messages: &[&[u8]]) -> Vec<Digest> {
    let mut waiting: Vec<(usize, &[u8])> = messages.iter().copied().enumerate().collect();
    waiting.sort_by_key(|(_, message)| Reverse(message.len()));
    let mut waiting = waiting.into_iter();
    let mut digests = vec![Digest::default(); messages.len()];
    let mut lanes = Lanes::default();
    let mut states = START.map(|word| [word; LANES]);
    loop {
        for (lane, place) in lanes.0.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|message| message.left() > 0) {
                continue;
            }
            if let Some(message) = place.take() {
                digests[message.index] = digest(&states, lane);
            }
            if let Some((index, message)) = waiting.next() {
                *place = Some(Message::new(index, message));
                for (state, start) in states.iter_mut().zip(START) {
                    state[lane] = start;
                }
            }
        }
        let Some((blocks, count)) = lanes.next_blocks() else {
            return digests;
        };
        dispatch!(level, simd => compress_all(simd, &mut states, blocks, count));
        for message in lanes.0.iter_mut().flatten() {
            message.done += count;
        }
    }
}

fn digest(states: &[[u32; LANES]; 4], lane: usize) -> Digest {
    let mut digest = Digest::default();
    for (bytes, state) in digest.as_chunks_mut::<4>().0.iter_mut().zip(states) {
        *bytes = state[lane].to_le_bytes();
    }
    digest
}

/// A message in a lane: its whole blocks, and the last one or two with what MD5 puts behind a message.
struct Message<'a> {
    index: usize,
    whole: &'a [[u8; BLOCK]],
    padded: [[u8; BLOCK]; 2],
    /// How many blocks there are, and how many of them are done.
    blocks: usize,
    done: usize,
}

impl<'a> Message<'a> {
    fn new(index: usize, message: &'a [u8]) -> Self {
        let (whole, rest) = message.as_chunks::<BLOCK>();
        let mut padded = [[0; BLOCK]; 2];
        padded[0][..rest.len()].copy_from_slice(rest);
        padded[0][rest.len()] = 0x80;
        // A bit for the end and 8 bytes for the length must find place.
        let last = usize::from(rest.len() + 1 + 8 > BLOCK);
        let bits = (message.len() as u64).wrapping_mul(8);
        padded[last][BLOCK - 8..].copy_from_slice(&bits.to_le_bytes());
        Self {
            index,
            whole,
            padded,
            blocks: whole.len() + last + 1,
            done: 0,
        }
    }

    fn left(&self) -> usize {
        self.blocks - self.done
    }

    /// The next blocks that stand one behind the other in memory.
    fn next_blocks(&self) -> &[[u8; BLOCK]] {
        match self.whole.get(self.done..) {
            Some(whole) if !whole.is_empty() => whole,
            Some(_) | None => &self.padded[self.done - self.whole.len()..self.blocks - self.whole.len()],
        }
    }
}

#[derive(Default)]
struct Lanes<'a>([Option<Message<'a>>; LANES]);

impl Lanes<'_> {
    /// The next blocks of each lane, and how many of them each has; `None` if all lanes are empty. An empty lane repeats another one, and
    /// its result counts for nothing.
    fn next_blocks(&self) -> Option<([&[[u8; BLOCK]]; LANES], usize)> {
        let ready = || self.0.iter().flatten().map(Message::next_blocks);
        let shortest = ready().min_by_key(|blocks| blocks.len())?;
        let mut blocks = [shortest; LANES];
        for (blocks, message) in blocks.iter_mut().zip(&self.0) {
            if let Some(message) = message {
                *blocks = message.next_blocks();
            }
        }
        Some((blocks, shortest.len()))
    }
}

type Vector<S> = [u32x8<S>; VECTORS];

#[inline(always)]
fn compress_all<S: Simd>(
    simd: S,
    states: &mut [[u32; LANES]; 4],
    blocks: [&[[u8; BLOCK]]; LANES],
    count: usize,
) {
    let mut vectors = [[u32x8::splat(simd, 0); VECTORS]; 4];
    for (vectors, state) in vectors.iter_mut().zip(&*states) {
        for (vector, words) in vectors.iter_mut().zip(state.as_chunks::<WIDTH>().0) {
            *vector = u32x8::load_array(simd, *words);
        }
    }
    // As long as each other, so that the check of an index is one for all lanes.
    let blocks = blocks.map(|blocks| &blocks[..count]);
    for at in 0..count {
        compress(simd, &mut vectors, &blocks, at);
    }
    for (vectors, state) in vectors.iter().zip(states) {
        for (vector, words) in vectors.iter().zip(state.as_chunks_mut::<WIDTH>().0) {
            *words = vector.to_array();
        }
    }
}

/// Takes the block at this place of each lane into the states.
#[inline(always)]
fn compress<S: Simd>(simd: S, states: &mut [Vector<S>; 4], blocks: &[&[[u8; BLOCK]]; LANES], at: usize) {
    let mut words = [[u32x8::splat(simd, 0); VECTORS]; 16];
    for vector in 0..VECTORS {
        let lanes = &blocks[vector * WIDTH..][..WIDTH];
        for first in [0, 4, 8, 12] {
            let low = transpose([0, 1, 2, 3].map(|lane| four_words(simd, &lanes[lane][at], first)));
            let high = transpose([4, 5, 6, 7].map(|lane| four_words(simd, &lanes[lane][at], first)));
            for word in 0..4 {
                words[first + word][vector] = low[word].combine(high[word]);
            }
        }
    }
    let mut next = *states;
    round::<S, 7, 12, 17, 22>(choose, &mut next, &words, 0, 1, 0);
    round::<S, 5, 9, 14, 20>(choose_by_third, &mut next, &words, 16, 5, 1);
    round::<S, 4, 11, 16, 23>(parity, &mut next, &words, 32, 3, 5);
    round::<S, 6, 10, 15, 21>(mix, &mut next, &words, 48, 7, 0);
    for (state, next) in states.iter_mut().zip(next) {
        for (state, next) in state.iter_mut().zip(next) {
            *state += next;
        }
    }
}

/// Four words of a block, from this one on.
#[inline(always)]
fn four_words<S: Simd>(simd: S, block: &[u8; BLOCK], first: usize) -> u32x4<S> {
    let words = block.as_chunks::<4>().0;
    let word = |number: usize| u32::from_le_bytes(words[first + number]);
    u32x4::load_array(simd, [word(0), word(1), word(2), word(3)])
}

/// Four words of four lanes become the four lanes of four words.
#[inline(always)]
fn transpose<S: Simd>([a, b, c, d]: [u32x4<S>; 4]) -> [u32x4<S>; 4] {
    let (even_low, even_high) = (a.zip_low(c), a.zip_high(c));
    let (odd_low, odd_high) = (b.zip_low(d), b.zip_high(d));
    [
        even_low.zip_low(odd_low),
        even_low.zip_high(odd_low),
        even_high.zip_low(odd_high),
        even_high.zip_high(odd_high),
    ]
}

/// Sixteen steps, which take the words in an order of their own: each `stride` behind the one before, from `offset` on.
#[inline(always)]
fn round<S: Simd, const A: u32, const B: u32, const C: u32, const D: u32>(
    function: impl Fn(u32x8<S>, u32x8<S>, u32x8<S>) -> u32x8<S> + Copy,
    state: &mut [Vector<S>; 4],
    words: &[Vector<S>; 16],
    first: usize,
    stride: usize,
    offset: usize,
) {
    let [mut a, mut b, mut c, mut d] = *state;
    for number in [0, 4, 8, 12] {
        let word = |step: usize| &words[(stride * (number + step) + offset) % 16];
        let sine = |step: usize| SINES[first + number + step];
        step::<S, A>(function, &mut a, [b, c, d], word(0), sine(0));
        step::<S, B>(function, &mut d, [a, b, c], word(1), sine(1));
        step::<S, C>(function, &mut c, [d, a, b], word(2), sine(2));
        step::<S, D>(function, &mut b, [c, d, a], word(3), sine(3));
    }
    *state = [a, b, c, d];
}

#[inline(always)]
fn step<S: Simd, const SHIFT: u32>(
    function: impl Fn(u32x8<S>, u32x8<S>, u32x8<S>) -> u32x8<S>,
    a: &mut Vector<S>,
    [b, c, d]: [Vector<S>; 3],
    word: &Vector<S>,
    sine: u32,
) {
    for vector in 0..VECTORS {
        let sum = a[vector] + (word[vector] + sine) + function(b[vector], c[vector], d[vector]);
        a[vector] = ((sum << SHIFT) | (sum >> (32 - SHIFT))) + b[vector];
    }
}

#[inline(always)]
fn choose<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    z ^ (x & (y ^ z))
}

#[inline(always)]
fn choose_by_third<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    y ^ (z & (x ^ y))
}

#[inline(always)]
fn parity<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    x ^ y ^ z
}

#[inline(always)]
fn mix<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    y ^ (x | !z)
}

#[cfg(test)]
mod tests;
