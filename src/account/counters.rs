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
/// greatest distance between two visits to the slow path ([`Block::next_allocation`]).
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
    /// The value of `bytes_allocated` that is brought to the slow path. All that needs looking at now and
    /// then shares this one comparison. A value left by a section that has ended costs one visit.
    next_allocation: AtomicU64,
    /// Live bytes below which an entered account has freed memory of others, as an `i64`. The lowest
    /// possible value if none is entered.
    base: AtomicU64,
    /// Highest number of live bytes before a free since the last [`watch`](Self::watch), as an `i64`. No
    /// free saw the bytes that are live now.
    peak: AtomicU64,
    /// The live bytes at the last [`watch`](Self::watch), as an `i64`.
    visited: AtomicU64,
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

/// Adds to a counter of the calling thread's block, and returns the sum.
#[inline]
fn bump(counter: &AtomicU64, by: u64) -> u64 {
    // Relaxed: no other memory is published through a counter. A reader sees the value before or
    // after (invariant 1).
    let value = counter.load(Relaxed).wrapping_add(by);
    counter.store(value, Relaxed);
    value
}

/// Counts in [`SHARED`], from any thread (invariant 3). Relaxed as above.
pub(super) mod shared {
    use super::{Relaxed, SHARED};

    pub(in crate::account) fn allocated(size: usize) {
        SHARED.allocations.fetch_add(1, Relaxed);
        SHARED.bytes_allocated.fetch_add(size as u64, Relaxed);
    }

    pub(in crate::account) fn deallocated(size: usize) {
        SHARED.deallocations.fetch_add(1, Relaxed);
        SHARED.bytes_deallocated.fetch_add(size as u64, Relaxed);
    }

    pub(in crate::account) fn reallocated(old: usize, new: usize) {
        SHARED.reallocations.fetch_add(1, Relaxed);
        let (counter, by) = if new >= old {
            (&SHARED.bytes_allocated, new - old)
        } else {
            (&SHARED.bytes_deallocated, old - new)
        };
        counter.fetch_add(by as u64, Relaxed);
    }
}

// What is counted below is the calling thread's own (invariant 1).
impl Block {
    pub(super) const fn new() -> Self {
        Self {
            allocations: AtomicU64::new(0),
            deallocations: AtomicU64::new(0),
            reallocations: AtomicU64::new(0),
            bytes_allocated: AtomicU64::new(0),
            bytes_deallocated: AtomicU64::new(0),
            next_allocation: AtomicU64::new(u64::MAX),
            base: AtomicU64::new(i64::MIN as u64),
            peak: AtomicU64::new(i64::MAX as u64),
            visited: AtomicU64::new(0),
        }
    }

    /// Counts a new block of `size` bytes. Returns whether it has to be looked at.
    ///
    /// While an account is entered, a block of [`LARGE`] bytes always crosses the mark, which is never
    /// further away.
    #[inline]
    pub(super) fn allocated(&self, size: usize) -> bool {
        bump(&self.allocations, 1);
        self.grew(size)
    }

    /// Counts a freed block of `size` bytes. Returns whether it has to be looked at.
    #[inline]
    pub(super) fn deallocated(&self, size: usize) -> bool {
        bump(&self.deallocations, 1);
        self.shrank(size) || size >= LARGE
    }

    /// Counts a block resized from `old` to `new` bytes. Returns whether it has to be looked at, if both
    /// are below [`LARGE`].
    #[inline]
    pub(super) fn reallocated(&self, old: usize, new: usize) -> bool {
        bump(&self.reallocations, 1);
        if new >= old {
            self.grew(new - old)
        } else {
            self.shrank(old - new)
        }
    }

    #[inline]
    fn grew(&self, by: usize) -> bool {
        bump(&self.bytes_allocated, by as u64) >= self.next_allocation.load(Relaxed)
    }

    /// Live bytes are highest before they are freed, so this is where the peak is looked for.
    #[inline]
    fn shrank(&self, by: usize) -> bool {
        let freed = self.bytes_deallocated.load(Relaxed);
        let before = self.bytes_allocated.load(Relaxed).wrapping_sub(freed) as i64;
        self.bytes_deallocated
            .store(freed.wrapping_add(by as u64), Relaxed);
        if before > self.peak.load(Relaxed) as i64 {
            self.peak.store(before as u64, Relaxed);
        }
        before.wrapping_sub(by as i64) < self.base()
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

    /// Returns the live bytes below which an entered account has freed memory of others. Owner only, as
    /// all below.
    #[inline]
    pub(super) fn base(&self) -> i64 {
        self.base.load(Relaxed) as i64
    }

    /// Returns how far the live bytes rose since the last [`watch`](Self::watch), and how many more they
    /// are now that they are `live`.
    #[inline]
    pub(super) fn moved(&self, live: i64) -> (i64, i64) {
        let visited = self.visited.load(Relaxed) as i64;
        let peak = (self.peak.load(Relaxed) as i64).max(live);
        (peak.wrapping_sub(visited), live.wrapping_sub(visited))
    }

    /// Watches for live bytes above `live`, the present ones, and below `base`, and for an allocation
    /// with which the bytes allocated reach `mark`.
    #[inline]
    pub(super) fn watch(&self, live: i64, base: i64, mark: u64) {
        self.next_allocation.store(mark, Relaxed);
        self.base.store(base as u64, Relaxed);
        self.peak.store(live as u64, Relaxed);
        self.visited.store(live as u64, Relaxed);
    }

    /// No account is entered. What is left in the peak and the mark matters to none.
    #[inline]
    pub(super) fn unwatch(&self) {
        self.base.store(i64::MIN as u64, Relaxed);
    }

    /// Has everything looked at.
    #[inline]
    pub(super) fn look_at_all(&self) {
        self.next_allocation.store(0, Relaxed);
        self.base.store(i64::MAX as u64, Relaxed);
    }

    /// Has the next allocation looked at.
    pub(super) fn look_at_next(&self) {
        self.next_allocation.store(0, Relaxed);
    }

    /// Has no allocation looked at.
    #[inline]
    pub(super) fn look_at_none(&self) {
        self.next_allocation.store(u64::MAX, Relaxed);
    }

    /// Whether the live bytes are below those of an account.
    pub(super) fn has_fallen(&self) -> bool {
        self.live_bytes() < self.base()
    }

    /// Whether the bytes allocated have reached the mark.
    pub(super) fn is_at_mark(&self) -> bool {
        self.bytes_allocated.load(Relaxed) >= self.next_allocation.load(Relaxed)
    }

    /// Live bytes moved by `by`, which is no movement of the bytes that are watched.
    pub(super) fn shift(&self, by: i64) {
        bump(&self.base, by as u64);
        bump(&self.peak, by as u64);
        bump(&self.visited, by as u64);
    }
}
