//! The counters of one thread: a block with a single writer and any number of readers.
//!
//! # Invariants
//!
//! 1. A block that a thread *owns* (its `OWN` cell points to the block) is written by that thread
//!    only. Its counters are therefore advanced by load, add and store, without a locked instruction.
//! 2. A block is never freed and its counters, except `peak`, never decrease, so a sum over all blocks
//!    stays complete when threads start and end.
//! 3. No thread owns the [`SHARED`] block. It counts, by `fetch_add`, what a thread allocates before
//!    it has a block or after it released it.

// Not from `crate::sync`: loom's atomics cannot be in a `static`, and single-writer counters have no
// interleaving worth a model. The ownership of blocks is modelled in `allocator.rs`.
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::usage::HeapUsage;

/// Counters of one thread. Aligned to two cache lines, which processors prefetch in pairs, so that
/// two threads never share one.
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Block {
    allocations: AtomicU64,
    deallocations: AtomicU64,
    reallocations: AtomicU64,
    bytes_allocated: AtomicU64,
    bytes_deallocated: AtomicU64,
    /// Highest number of live bytes since the last [`set_peak`](Self::set_peak), as an `i64`.
    peak: AtomicU64,
}

/// Counts allocations of threads without a block.
pub(super) static SHARED: Block = Block::new();

thread_local! {
    // `const` and without `Drop`: an access is one instruction, never registers a destructor and never
    // allocates. Inside a global allocator, correctness depends on that.
    static OWN: Cell<Option<&'static Block>> = const { Cell::new(None) };
}

/// Returns the block that the calling thread owns, if it has one.
#[inline]
pub(super) fn own() -> Option<&'static Block> {
    OWN.try_with(Cell::get).unwrap_or(None)
}

/// Makes the calling thread own `block`, or no block.
pub(super) fn set_own(block: Option<&'static Block>) {
    // Cannot fail: the cell has no destructor.
    let _ = OWN.try_with(|own| own.set(block));
}

/// How counts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// By one writer at a time, by load, add and store: the thread that owns a block, or the single
    /// owner of a request (its future, then its body). Each use happens after the former one.
    Exclusive,
    /// From any thread, by atomic additions.
    Shared,
}

/// Adds to a counter, and returns the sum.
#[inline]
fn bump(counter: &AtomicU64, by: u64, writer: Writer) -> u64 {
    // Relaxed: no other memory is published through a counter. A reader sees the value before or
    // after (invariant 1).
    match writer {
        Writer::Exclusive => {
            let value = counter.load(Relaxed).wrapping_add(by);
            counter.store(value, Relaxed);
            value
        }
        Writer::Shared => counter.fetch_add(by, Relaxed).wrapping_add(by),
    }
}

impl Block {
    pub(super) const fn new() -> Self {
        Self {
            allocations: AtomicU64::new(0),
            deallocations: AtomicU64::new(0),
            reallocations: AtomicU64::new(0),
            bytes_allocated: AtomicU64::new(0),
            bytes_deallocated: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }
    }

    /// Counts a new block of `size` bytes.
    #[inline]
    pub(super) fn allocated(&self, size: usize, writer: Writer) {
        bump(&self.allocations, 1, writer);
        self.grew(size, writer);
    }

    /// Counts a freed block of `size` bytes.
    #[inline]
    pub(super) fn deallocated(&self, size: usize, writer: Writer) {
        bump(&self.deallocations, 1, writer);
        bump(&self.bytes_deallocated, size as u64, writer);
    }

    /// Counts a block resized from `old` to `new` bytes.
    #[inline]
    pub(super) fn reallocated(&self, old: usize, new: usize, writer: Writer) {
        bump(&self.reallocations, 1, writer);
        if new >= old {
            self.grew(new - old, writer);
        } else {
            bump(&self.bytes_deallocated, (old - new) as u64, writer);
        }
    }

    #[inline]
    fn grew(&self, by: usize, writer: Writer) {
        // Relaxed: the owner reads its own writes (invariant 1). Nothing reads the peak of `SHARED`.
        let allocated = bump(&self.bytes_allocated, by as u64, writer);
        let live = allocated.wrapping_sub(self.bytes_deallocated.load(Relaxed));
        if live as i64 > self.peak.load(Relaxed) as i64 {
            self.peak.store(live, Relaxed);
        }
    }

    /// Reads the counters. Exact for the owner; other threads may see each counter at another moment.
    #[inline]
    pub(super) fn read(&self) -> HeapUsage {
        // Frees are read first, so that another thread tends to count a byte as live rather than as
        // freed before it was allocated. Relaxed loads do not guarantee this.
        let deallocations = self.deallocations.load(Relaxed);
        let bytes_deallocated = self.bytes_deallocated.load(Relaxed);
        HeapUsage {
            allocations: self.allocations.load(Relaxed),
            deallocations,
            reallocations: self.reallocations.load(Relaxed),
            bytes_allocated: self.bytes_allocated.load(Relaxed),
            bytes_deallocated,
        }
    }

    /// Returns allocations, deallocations and reallocations, in this order.
    #[inline]
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (
            self.allocations.load(Relaxed),
            self.deallocations.load(Relaxed),
            self.reallocations.load(Relaxed),
        )
    }

    /// Returns the bytes allocated minus the bytes freed. Exact for the owner.
    #[inline]
    pub(super) fn live_bytes(&self) -> i64 {
        let freed = self.bytes_deallocated.load(Relaxed);
        self.bytes_allocated.load(Relaxed).wrapping_sub(freed) as i64
    }

    /// Resets the peak to `live`. Owner only.
    #[inline]
    pub(super) fn set_peak(&self, live: i64) {
        self.peak.store(live as u64, Relaxed);
    }

    /// Returns the highest number of live bytes since the last [`set_peak`](Self::set_peak).
    #[inline]
    pub(super) fn peak(&self) -> i64 {
        self.peak.load(Relaxed) as i64
    }
}
