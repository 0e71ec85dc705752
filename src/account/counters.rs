//! The counters of one thread: a block with a single writer and any number of readers.
//!
//! # Invariants
//!
//! 1. A block that is some thread's *own* (its `OWN` cell points to it) is written by that thread
//!    only. Its counters may therefore be advanced by load, add and store, without a locked
//!    instruction.
//! 2. A block is never freed and its counters (all but `peak`) never go backwards, so a sum over
//!    all blocks misses nothing when threads come and go.
//! 3. The block that belongs to nobody ([`SHARED`]) is never anyone's own: it takes what a thread
//!    allocates before it has a block or after it gave it back, by `fetch_add`.

// Not from `crate::sync`: loom's atomics cannot stand in a `static`, and single-writer counters
// have no interleaving worth a model. Who owns a block is modelled where that is decided.
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::usage::HeapUsage;

/// Counters of one thread; aligned so that two threads never share a cache line (two lines, since
/// processors prefetch them in pairs).
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Block {
    allocations: AtomicU64,
    deallocations: AtomicU64,
    reallocations: AtomicU64,
    bytes_allocated: AtomicU64,
    bytes_deallocated: AtomicU64,
    /// Highest `live` since the last [`set_peak`](Self::set_peak), as an `i64`.
    peak: AtomicU64,
}

/// Where allocations go that no thread's own block can take.
pub(super) static SHARED: Block = Block::new();

thread_local! {
    // `const` and without `Drop`: reaching it is one instruction, never registers a destructor
    // and never allocates, which inside a global allocator is a matter of correctness.
    static OWN: Cell<Option<&'static Block>> = const { Cell::new(None) };
}

/// The calling thread's own block, if it has one.
#[inline]
pub(super) fn own() -> Option<&'static Block> {
    OWN.try_with(Cell::get).unwrap_or(None)
}

/// Makes `block` the calling thread's own (`None`: it has none any more).
pub(super) fn set_own(block: Option<&'static Block>) {
    // Cannot fail: the cell has no destructor.
    let _ = OWN.try_with(|own| own.set(block));
}

#[inline]
fn bump(counter: &AtomicU64, by: u64) -> u64 {
    // Single writer (invariant 1): a reader sees the value before or after, both of which are
    // true at some moment. Relaxed suffices since no other memory is published through it.
    let value = counter.load(Relaxed).wrapping_add(by);
    counter.store(value, Relaxed);
    value
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

    /// Counts a new block of `size` bytes. Owner only.
    #[inline]
    pub(super) fn allocated(&self, size: usize) {
        bump(&self.allocations, 1);
        self.grew(size as u64);
    }

    /// Counts a freed block of `size` bytes. Owner only.
    #[inline]
    pub(super) fn deallocated(&self, size: usize) {
        bump(&self.deallocations, 1);
        bump(&self.bytes_deallocated, size as u64);
    }

    /// Counts a block resized from `old` to `new` bytes. Owner only.
    #[inline]
    pub(super) fn reallocated(&self, old: usize, new: usize) {
        bump(&self.reallocations, 1);
        if new >= old {
            self.grew((new as u64).wrapping_sub(old as u64));
        } else {
            bump(
                &self.bytes_deallocated,
                (old as u64).wrapping_sub(new as u64),
            );
        }
    }

    #[inline]
    fn grew(&self, by: u64) {
        // Relaxed: the owner reads what it wrote itself (invariant 1).
        let allocated = bump(&self.bytes_allocated, by);
        let live = allocated.wrapping_sub(self.bytes_deallocated.load(Relaxed));
        if live as i64 > self.peak.load(Relaxed) as i64 {
            self.peak.store(live, Relaxed);
        }
    }

    /// As [`allocated`](Self::allocated), from any thread.
    pub(super) fn allocated_by_any(&self, size: usize) {
        // Relaxed, as in the next two: figures, which publish no other memory.
        self.allocations.fetch_add(1, Relaxed);
        self.bytes_allocated.fetch_add(size as u64, Relaxed);
    }

    /// As [`deallocated`](Self::deallocated), from any thread.
    pub(super) fn deallocated_by_any(&self, size: usize) {
        self.deallocations.fetch_add(1, Relaxed);
        self.bytes_deallocated.fetch_add(size as u64, Relaxed);
    }

    /// As [`reallocated`](Self::reallocated), from any thread.
    pub(super) fn reallocated_by_any(&self, old: usize, new: usize) {
        self.reallocations.fetch_add(1, Relaxed);
        self.bytes_allocated
            .fetch_add(new.saturating_sub(old) as u64, Relaxed);
        self.bytes_deallocated
            .fetch_add(old.saturating_sub(new) as u64, Relaxed);
    }

    /// The counters now. Exact for the owner; for others, true at some moment.
    #[inline]
    pub(super) fn read(&self) -> HeapUsage {
        // Freed before allocated, so that a reader on another thread rather counts a byte as
        // still live than as freed before it was allocated. Relaxed loads are no promise of that.
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

    /// Allocations, deallocations and reallocations, in this order.
    #[inline]
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (
            self.allocations.load(Relaxed),
            self.deallocations.load(Relaxed),
            self.reallocations.load(Relaxed),
        )
    }

    /// Bytes obtained and not given back, by the owner's own sum.
    #[inline]
    pub(super) fn live_bytes(&self) -> i64 {
        let freed = self.bytes_deallocated.load(Relaxed);
        self.bytes_allocated.load(Relaxed).wrapping_sub(freed) as i64
    }

    /// Starts a new peak at `live`. Owner only.
    #[inline]
    pub(super) fn set_peak(&self, live: i64) {
        self.peak.store(live as u64, Relaxed);
    }

    /// The highest live figure since the last [`set_peak`](Self::set_peak).
    #[inline]
    pub(super) fn peak(&self) -> i64 {
        self.peak.load(Relaxed) as i64
    }
}
