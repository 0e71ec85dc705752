//! The tables of the process, and what happens to a sample.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::{
    draw::{Rate, Weight},
    live::{Live, Sample, WAYS},
    raw,
    stacks::Stacks,
};
use crate::names::ROUTES;

pub(crate) use super::stacks::{Names, Totals};

/// Sizes of the tables: 65 536 live samples and 8192 stacks of 32 calls in the mean. They are zero at
/// first, so they take memory as they fill.
const FILTER: usize = if cfg!(tower_memory_loom) { 1 } else { 32 << 10 };
const BUCKETS: usize = if cfg!(tower_memory_loom) { 1 } else { 4096 };
const PLACES: usize = ROUTES + if cfg!(tower_memory_loom) { 2 } else { 8192 };
const WORDS: usize = if cfg!(tower_memory_loom) {
    2
} else {
    8192 * 32
};

/// Calls of a stack that are kept, from the innermost on.
const FRAMES: usize = 64;

// `Profile::dropped` says so.
const _: () = assert!(cfg!(tower_memory_loom) || BUCKETS * WAYS == 65_536);

#[cfg(not(tower_memory_loom))]
static LIVE: Live<FILTER, BUCKETS> = Live::new();
#[cfg(not(tower_memory_loom))]
static STACKS: Stacks<ROUTES, PLACES, WORDS> = Stacks::new();

#[cfg(tower_memory_loom)]
loom::lazy_static! {
    static ref LIVE: Live<FILTER, BUCKETS> = Live::new();
    static ref STACKS: Stacks<ROUTES, PLACES, WORDS> = Stacks::new();
}

/// Live samples that found no room, and the bytes that they stand for.
static DROPPED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Whether the build keeps frame pointers. False before that was looked for.
static FRAME_POINTERS: AtomicBool = AtomicBool::new(false);

/// Whether there has been a sample. A program without a profile looks at nothing else.
static HAS_SAMPLED: AtomicBool = AtomicBool::new(false);

/// Whether there may be samples of a block that is about to be resized or freed.
#[inline]
pub(crate) fn may_be_live(address: usize) -> bool {
    // Relaxed: it was set before a sample of this block was kept, which happened before (invariant 1 of `live`).
    HAS_SAMPLED.load(Relaxed) && LIVE.may_have(address)
}

/// Records a sample: the block at `address` is new, or grew by `bytes`.
#[cold]
#[inline(never)]
pub(crate) fn sampled(address: usize, bytes: usize, is_new: bool, rate: Rate, names: Names) {
    if bytes == 0 {
        return;
    }
    let mut stack = [0; FRAMES];
    let len = if FRAME_POINTERS.load(Relaxed) {
        raw::walk(&mut stack)
    } else {
        0
    };
    let stack = STACKS.number(names, stack.get(..len).unwrap_or(&[]));
    let weight = Weight::of(bytes, is_new, rate);
    STACKS.allocated(stack, weight);
    keep(address, Sample { stack, weight });
}

/// Keeps a sample until its block is freed.
fn keep(address: usize, sample: Sample) {
    if !HAS_SAMPLED.load(Relaxed) {
        HAS_SAMPLED.store(true, Relaxed);
    }
    if !LIVE.insert(address, sample) {
        // Allocated stays right, and in use is too low by what is counted here.
        STACKS.freed(sample.stack, sample.weight);
        let [samples, bytes] = &DROPPED;
        samples.fetch_add(1, Relaxed);
        bytes.fetch_add(sample.weight.bytes, Relaxed);
    }
}

/// A block is about to be freed. Before that, since another thread may get the address right after.
#[cold]
#[inline(never)]
pub(crate) fn freed(address: usize) {
    LIVE.take(address, |sample| STACKS.freed(sample.stack, sample.weight));
}

/// The samples of a block that is being resized.
#[derive(Debug)]
pub(crate) struct LiveSamples([Option<Sample>; WAYS]);

impl LiveSamples {
    /// Takes them out before the block is resized, since another thread may get the address right after.
    #[cold]
    pub(crate) fn take(address: usize) -> Self {
        let mut samples = [None; WAYS];
        let mut places = samples.iter_mut();
        LIVE.take(address, |sample| {
            if let Some(place) = places.next() {
                *place = Some(sample);
            }
        });
        Self(samples)
    }

    /// The block was not resized.
    pub(crate) fn put_back(self, address: usize) {
        self.0
            .into_iter()
            .flatten()
            .for_each(|sample| keep(address, sample));
    }

    /// The block has `to` bytes now instead of `from`.
    pub(crate) fn resized(self, address: usize, from: usize, to: usize) {
        for mut sample in self.0.into_iter().flatten() {
            if to < from {
                let left = sample.weight.shrunk(from, to);
                let gone = Weight {
                    objects: 0,
                    bytes: sample.weight.bytes.saturating_sub(left.bytes),
                };
                STACKS.freed(sample.stack, gone);
                sample.weight = left;
            }
            keep(address, sample);
        }
    }
}

/// The sums of all samples.
pub(crate) fn totals() -> Vec<Totals> {
    STACKS.totals()
}

/// Live samples that found no room, and the bytes that they stand for.
pub(crate) fn dropped() -> (u64, u64) {
    let [samples, bytes] = &DROPPED;
    (samples.load(Relaxed), bytes.load(Relaxed))
}

/// Whether stacks are recorded.
pub(crate) fn frame_pointers() -> bool {
    FRAME_POINTERS.load(Relaxed)
}

/// Finds out whether the build keeps frame pointers. Not called by the allocator.
pub(crate) fn look_for_frame_pointers() {
    FRAME_POINTERS.store(calls_itself_is_seen(), Relaxed);
}

/// Whether a walk sees a function that calls itself as what it is: equal return addresses in a row.
fn calls_itself_is_seen() -> bool {
    const CALLS: usize = 8;

    #[inline(never)]
    fn call(depth: usize, stack: &mut [usize]) -> usize {
        if depth == 0 {
            return raw::walk(stack);
        }
        std::hint::black_box(call(std::hint::black_box(depth - 1), stack))
    }

    let mut stack = [0; 2 * CALLS];
    let len = call(CALLS, &mut stack);
    let seen = stack.get(..len).unwrap_or(&[]);
    seen.windows(CALLS)
        .any(|calls| calls.windows(2).all(|pair| pair[0] == pair[1]))
}
