//! The counters of one thread: a block with a single writer and any number of readers.
//!
//! # Invariants
//!
//! 1. A block that a thread *owns* (its `OWN` cell points to the block) is written by that thread
//!    only. Its counters are therefore advanced by load, add and store, without a locked instruction.
//! 2. A block is never freed and its counters of calls and bytes never decrease, so a sum over all
//!    blocks stays complete when threads start and end.
//! 3. No thread owns the [`SHARED`] block. It counts, by `fetch_add`, what a thread allocates before
//!    it has a block or after it released it.

// Not from `crate::sync`: loom's atomics cannot be in a `static`, and single-writer counters have no
// interleaving worth a model. The ownership of blocks is modelled in `raw/registry.rs`.
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::usage::HeapUsage;

/// Blocks of this many bytes and more have an owner, the account that allocated them. It is also the
/// distance between two visits to the slow path ([`Block::next_allocation`]).
pub(super) const LARGE: usize = 64 << 10;

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
    /// Whether an account is entered. Nothing below matters otherwise.
    watched: AtomicU64,
    /// Live bytes below which an entered account has freed memory of others, as an `i64`.
    base: AtomicU64,
    /// Highest number of live bytes since the last [`watch`](Self::watch), as an `i64`.
    peak: AtomicU64,
    /// The value of `bytes_allocated` that is brought to the slow path. All that needs looking at now and
    /// then shares this one comparison.
    next_allocation: AtomicU64,
    /// The part of the live bytes that is in large blocks, as an `i64`. Written in the slow path only.
    large: AtomicU64,
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
            watched: AtomicU64::new(0),
            base: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            next_allocation: AtomicU64::new(0),
            large: AtomicU64::new(0),
        }
    }

    /// Counts a new block of `size` bytes. Returns whether it has to be looked at.
    #[inline]
    pub(super) fn allocated(&self, size: usize, writer: Writer) -> bool {
        bump(&self.allocations, 1, writer);
        self.grew(size, writer)
    }

    /// Counts a freed block of `size` bytes. Returns whether it has to be looked at.
    #[inline]
    pub(super) fn deallocated(&self, size: usize, writer: Writer) -> bool {
        bump(&self.deallocations, 1, writer);
        bump(&self.bytes_deallocated, size as u64, writer);
        size >= LARGE
    }

    /// Counts a block resized from `old` to `new` bytes. Returns whether it has to be looked at, if both
    /// are below [`LARGE`].
    #[inline]
    pub(super) fn reallocated(&self, old: usize, new: usize, writer: Writer) -> bool {
        bump(&self.reallocations, 1, writer);
        if new >= old {
            self.grew(new - old, writer)
        } else {
            bump(&self.bytes_deallocated, (old - new) as u64, writer);
            false
        }
    }

    /// While an account is entered, a block of [`LARGE`] bytes always crosses the mark, which is never
    /// further away.
    #[inline]
    fn grew(&self, by: usize, writer: Writer) -> bool {
        // Relaxed: the owner reads its own writes (invariant 1). Nothing watches `SHARED`.
        let allocated = bump(&self.bytes_allocated, by as u64, writer);
        if self.watched.load(Relaxed) == 0 {
            return false;
        }
        let live = allocated.wrapping_sub(self.bytes_deallocated.load(Relaxed)) as i64;
        if allocated >= self.next_allocation.load(Relaxed)
            || live.wrapping_sub(by as i64) < self.base.load(Relaxed) as i64
        {
            return true;
        }
        self.raise_peak(live);
        false
    }

    #[inline]
    fn raise_peak(&self, live: i64) {
        if live > self.peak.load(Relaxed) as i64 {
            self.peak.store(live as u64, Relaxed);
        }
    }

    /// The live bytes rose to the present ones. Owner only.
    pub(super) fn rose(&self) {
        self.raise_peak(self.live_bytes());
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

    /// Returns the live bytes that are in small blocks. Exact for the owner.
    #[inline]
    pub(super) fn small_bytes(&self) -> i64 {
        self.live_bytes()
            .wrapping_sub(self.large.load(Relaxed) as i64)
    }

    /// Returns the highest number of live bytes in small blocks since the last [`watch`](Self::watch).
    #[inline]
    pub(super) fn small_peak(&self) -> i64 {
        let peak = self.peak.load(Relaxed) as i64;
        peak.wrapping_sub(self.large.load(Relaxed) as i64)
    }

    /// Watches for small bytes above `small`, the present ones, and below `base`. Owner only.
    #[inline]
    pub(super) fn watch(&self, small: i64, base: i64) {
        let large = self.large.load(Relaxed) as i64;
        // The mark may have been passed since it was set, which costs one visit.
        self.watched.store(1, Relaxed);
        self.base.store(base.wrapping_add(large) as u64, Relaxed);
        self.peak.store(small.wrapping_add(large) as u64, Relaxed);
    }

    /// No account is entered. Owner only.
    #[inline]
    pub(super) fn unwatch(&self) {
        self.watched.store(0, Relaxed);
    }

    /// Sets the mark at which the slow path is visited next. Owner only.
    pub(super) fn set_mark(&self) {
        let allocated = self.bytes_allocated.load(Relaxed);
        self.next_allocation
            .store(allocated.wrapping_add(LARGE as u64), Relaxed);
    }

    /// Live bytes moved by `by` in a large block, which is no change of the small ones. Owner only.
    pub(super) fn move_large(&self, by: i64) {
        bump(&self.large, by as u64, Writer::Exclusive);
        bump(&self.base, by as u64, Writer::Exclusive);
        bump(&self.peak, by as u64, Writer::Exclusive);
    }
}
