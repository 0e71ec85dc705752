//! The counters of one thread: a block with a single writer and any number of readers.
//!
//! # Invariants
//!
//! 1. A block that a thread *owns* is written by that thread only. Its counters are therefore advanced
//!    by load, add and store, without a locked instruction, and what it watches for is in plain cells.
//! 2. A block is never freed and its counters of calls and bytes never decrease, so a sum over all
//!    blocks stays complete when threads start and end.
//! 3. No thread owns the [`SHARED`] counters. They count, by `fetch_add`, what a thread allocates before
//!    it has a block or after it released it.

// Not from `crate::sync`: loom's atomics cannot be in a `static`, and single-writer counters have no
// interleaving worth a model. The ownership of blocks is modelled in `raw/registry.rs`.
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::usage::HeapUsage;
use crate::sampler::Draw;

/// Blocks of this many bytes and more have an owner, the account that allocated them. It is also the
/// greatest distance between two visits to the slow path ([`Block::next_allocation`]).
pub(crate) const LARGE: usize = 64 << 10;

/// Live bytes are above the one, and below the other. A difference to either does not overflow.
pub(super) const NO_BASE: i64 = i64::MIN / 2;
const EVERY_FREE: i64 = i64::MAX / 2;

/// What was allocated and freed. Anyone may read it.
#[derive(Debug)]
pub(super) struct Counters {
    allocations: AtomicU64,
    deallocations: AtomicU64,
    reallocations: AtomicU64,
    bytes_allocated: AtomicU64,
    bytes_deallocated: AtomicU64,
}

/// Counters of one thread, and what it watches for. Aligned to two cache lines, which processors
/// prefetch in pairs, so that two threads never share one.
///
/// Only the owner uses it. Others get its counters.
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Block {
    counters: Counters,
    /// The bytes allocated from which on allocations are brought to the slow path. All that needs looking at now
    /// and then shares this one comparison. A value left by a section that has ended costs one visit.
    next_allocation: Cell<u64>,
    /// Live bytes below which an entered account has freed memory of others. [`NO_BASE`] if none is entered.
    base: Cell<i64>,
    /// Highest number of live bytes before a free since the last [`watch`](Self::watch), above the base. No
    /// free saw the bytes that are live now.
    peak: Cell<i64>,
    /// The live bytes at the last [`watch`](Self::watch), above the base. So a shift of the base shifts all
    /// that is watched.
    visited: Cell<i64>,
    /// When the profile takes its next sample. No mark is beyond that.
    pub(super) draw: Draw,
    /// Bytes that were allocated aside of the accounts that were entered.
    #[cfg(feature = "trace")]
    aside: Cell<u64>,
    /// Whether one account is watched for, so that falling below the base needs no look at others.
    alone: Cell<bool>,
    /// How many accounts are entered, as the stack of frames writes it; or [`NOWHERE`].
    pub(super) level: Cell<usize>,
}

/// The level of the block of threads that have none: no account can be entered.
pub(super) const NOWHERE: usize = usize::MAX / 2;

/// Counts allocations of threads without a block.
pub(super) static SHARED: Counters = Counters::new();

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

impl Counters {
    const fn new() -> Self {
        Self {
            allocations: AtomicU64::new(0),
            deallocations: AtomicU64::new(0),
            reallocations: AtomicU64::new(0),
            bytes_allocated: AtomicU64::new(0),
            bytes_deallocated: AtomicU64::new(0),
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
}

impl Block {
    pub(super) const fn new() -> Self {
        Self {
            counters: Counters::new(),
            next_allocation: Cell::new(Draw::FIRST),
            base: Cell::new(NO_BASE),
            peak: Cell::new(i64::MAX),
            visited: Cell::new(0),
            draw: Draw::new(),
            #[cfg(feature = "trace")]
            aside: Cell::new(0),
            alone: Cell::new(false),
            level: Cell::new(0),
        }
    }

    /// A block that nothing is counted in: each count is looked at, and belongs elsewhere.
    pub(super) const fn none() -> Self {
        Self {
            next_allocation: Cell::new(0),
            base: Cell::new(EVERY_FREE),
            level: Cell::new(NOWHERE),
            ..Self::new()
        }
    }

    /// For a new owner. The former one may have ended inside an account.
    pub(super) fn begin(&self) {
        self.unwatch();
        self.level.set(0);
    }

    /// Whether an account is entered.
    #[inline]
    pub(super) fn is_entered(&self) -> bool {
        !matches!(self.level.get(), 0 | NOWHERE)
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    #[inline]
    pub(super) fn read(&self) -> HeapUsage {
        self.counters.read()
    }

    /// Bytes that were allocated aside of the accounts that were entered.
    #[cfg(feature = "trace")]
    pub(super) fn allocated_aside(&self, bytes: u64) {
        self.aside.set(self.aside.get().wrapping_add(bytes));
    }

    /// The bytes that were allocated for an account, if one was entered.
    #[cfg(feature = "trace")]
    #[inline]
    pub(super) fn attributed_bytes(&self) -> u64 {
        let bytes = self.counters.bytes_allocated.load(Relaxed);
        bytes.wrapping_sub(self.aside.get())
    }

    /// Counts a new block of `size` bytes. Returns whether it has to be looked at.
    ///
    /// While an account is entered, a block of [`LARGE`] bytes always crosses the mark, which is never
    /// further away.
    #[inline]
    pub(super) fn allocated(&self, size: usize) -> bool {
        bump(&self.counters.allocations, 1);
        self.grew(size)
    }

    /// Counts a freed block of `size` bytes. Returns whether it has to be looked at.
    #[inline]
    pub(super) fn deallocated(&self, size: usize) -> bool {
        bump(&self.counters.deallocations, 1);
        let above = self.shrank(size);
        size >= LARGE || self.fell_below(above)
    }

    /// Counts a block resized from `old` to `new` bytes. Returns whether it has to be looked at, if both
    /// are below [`LARGE`].
    #[inline]
    pub(super) fn reallocated(&self, old: usize, new: usize) -> bool {
        bump(&self.counters.reallocations, 1);
        if new >= old {
            self.grew(new - old)
        } else {
            let above = self.shrank(old - new);
            self.fell_below(above)
        }
    }

    /// Counts a block resized from `old` to `new` bytes, of which one is [`LARGE`], so that it is looked at.
    pub(super) fn reallocated_large(&self, old: usize, new: usize) {
        bump(&self.counters.reallocations, 1);
        match new.checked_sub(old) {
            Some(by) => _ = self.grew(by),
            // Large blocks are no part of what is watched, so it falls below nothing.
            None => _ = self.shrank(old - new),
        }
    }

    #[inline]
    fn grew(&self, by: usize) -> bool {
        bump(&self.counters.bytes_allocated, by as u64) >= self.next_allocation.get()
    }

    /// Live bytes are highest before they are freed, so this is where the peak is looked for. Returns how far
    /// they are above the base now.
    #[inline]
    fn shrank(&self, by: usize) -> i64 {
        let above = self.above_base(self.live_bytes());
        bump(&self.counters.bytes_deallocated, by as u64);
        if above > self.peak.get() {
            self.peak.set(above);
        }
        above.wrapping_sub(by as i64)
    }

    #[inline]
    fn above_base(&self, live: i64) -> i64 {
        live.wrapping_sub(self.base.get())
    }

    /// Whether live bytes that are `above` the base have to be looked at.
    ///
    /// Below the base, one account that is entered holds nothing, whatever it freed beyond, and what it has held
    /// at most does not change.
    #[inline]
    fn fell_below(&self, above: i64) -> bool {
        if above >= 0 {
            return false;
        }
        let alone = self.alone.get();
        if alone {
            self.shift(above);
        }
        !alone
    }

    /// Returns allocations, deallocations and reallocations, in this order.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let read = self.read();
        (read.allocations, read.deallocations, read.reallocations)
    }

    /// Returns the bytes allocated minus the bytes freed.
    #[inline]
    pub(super) fn live_bytes(&self) -> i64 {
        let freed = self.counters.bytes_deallocated.load(Relaxed);
        let allocated = self.counters.bytes_allocated.load(Relaxed);
        allocated.wrapping_sub(freed) as i64
    }

    /// Returns the live bytes below which an entered account has freed memory of others.
    #[inline]
    pub(super) fn base(&self) -> i64 {
        self.base.get()
    }

    /// Returns how far the live bytes rose since the last [`watch`](Self::watch), and how many more they
    /// are now that they are `live`.
    #[inline]
    pub(super) fn moved(&self, live: i64) -> (i64, i64) {
        let (visited, above) = (self.visited.get(), self.above_base(live));
        let peak = self.peak.get().max(above);
        (peak.wrapping_sub(visited), above.wrapping_sub(visited))
    }

    /// Watches for live bytes above `live`, the present ones, and below `base`, and for an allocation
    /// with which the bytes allocated reach `mark`. `alone` says that it is for one account.
    #[inline]
    pub(super) fn watch(&self, live: i64, base: i64, mark: u64, alone: bool) {
        self.next_allocation.set(mark.min(self.draw.next()));
        self.base.set(base);
        let above = live.wrapping_sub(base);
        self.peak.set(above);
        self.visited.set(above);
        self.alone.set(alone);
    }

    /// Whether live bytes are below the base and have to be looked at.
    #[inline]
    pub(super) fn has_to_look(&self) -> bool {
        self.fell_below(self.above_base(self.live_bytes()))
    }

    /// No account is entered. What is left in the peak and the mark matters to none.
    #[inline]
    pub(super) fn unwatch(&self) {
        self.base.set(NO_BASE);
    }

    /// Has everything looked at.
    #[inline]
    pub(super) fn look_at_all(&self) {
        self.next_allocation.set(0);
        self.base.set(EVERY_FREE);
        self.alone.set(false);
    }

    /// Has the next allocation looked at.
    pub(super) fn look_at_next(&self) {
        self.next_allocation.set(0);
    }

    /// Has no allocation looked at, up to the next sample.
    #[inline]
    pub(super) fn look_at_none(&self) {
        self.next_allocation.set(self.draw.next());
    }

    /// Whether the live bytes are below those of an account.
    #[inline]
    pub(super) fn has_fallen(&self) -> bool {
        self.live_bytes() < self.base()
    }

    /// Whether the bytes allocated have reached the mark.
    pub(super) fn is_at_mark(&self) -> bool {
        self.bytes_allocated() >= self.next_allocation.get()
    }

    #[inline]
    pub(super) fn bytes_allocated(&self) -> u64 {
        self.counters.bytes_allocated.load(Relaxed)
    }

    /// What is watched rose by `by`, which no counter has seen.
    pub(super) fn rose(&self, by: usize) {
        self.shift((by as i64).wrapping_neg());
        let mark = self.next_allocation.get();
        self.next_allocation.set(mark.saturating_sub(by as u64));
    }

    /// What is watched fell by `by`, which no counter has seen.
    pub(super) fn fell(&self, by: usize) {
        let above = self.above_base(self.live_bytes());
        self.peak.set(self.peak.get().max(above));
        self.shift(by as i64);
    }

    /// Live bytes moved by `by`, which is no movement of the bytes that are watched.
    #[inline]
    pub(super) fn shift(&self, by: i64) {
        self.base.set(self.base.get().wrapping_add(by));
    }
}
