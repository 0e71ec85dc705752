//! The global allocator that counts (unsafe module 1 of 3).
//!
//! # Invariants
//!
//! 1. Every `GlobalAlloc` call is forwarded unchanged to the same method of the inner allocator,
//!    and its result is returned unchanged. What is counted has happened, or is a free and cannot
//!    fail.
//! 2. Nothing here allocates through the global allocator, locks, panics or calls user code. A
//!    thread's block of counters comes straight from [`System`], once, and is never freed. So do the
//!    other parts of `raw`.
#![expect(unsafe_code, reason = "implements GlobalAlloc")]

use std::alloc::{GlobalAlloc, Layout, System};

use super::{
    counters::{Block, LARGE, shared},
    frames,
    raw::{self, RecordRef},
    visits,
};
use crate::sampler::{self, LiveSamples};

/// A global allocator that counts what each thread allocates and frees.
///
/// It forwards every call to the wrapped allocator and advances the counters of the calling thread,
/// without shared atomics or locks. [`Account`](super::Account) and the middleware read these
/// counters.
///
/// Install it once: if one tracking allocator wraps another, everything is counted twice.
///
/// # Examples
///
/// ```
/// use tower_memory::TrackingAllocator;
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// assert!(tower_memory::account::is_installed());
/// ```
///
/// Around another allocator, for instance `TrackingAllocator::new(Jemalloc)`:
///
/// ```
/// use std::alloc::System;
/// use tower_memory::TrackingAllocator;
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator<System> = TrackingAllocator::new(System);
///
/// let heap = tower_memory::account::process_usage().expect("installed");
/// assert!(heap.allocations > 0);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TrackingAllocator<A = System> {
    inner: A,
}

impl TrackingAllocator {
    /// Wraps the system allocator.
    #[must_use]
    pub const fn system() -> Self {
        Self { inner: System }
    }
}

impl<A> TrackingAllocator<A> {
    /// Wraps `inner`.
    #[must_use]
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

// SAFETY: every method forwards its arguments to the inner allocator and returns its result
// unchanged (invariant 1), so the contract is the inner allocator's; counting neither unwinds nor
// allocates through the global allocator (invariant 2).
unsafe impl<A: GlobalAlloc> GlobalAlloc for TrackingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        let ptr = unsafe { self.inner.alloc(layout) };
        if !ptr.is_null() {
            count_allocation(ptr, layout.size());
        }
        ptr
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // Before the call: another thread may get the same address as soon as it has returned.
        if sampler::may_be_live(ptr.addr()) {
            sampler::freed(ptr.addr());
        }
        count_deallocation(ptr, layout.size());
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        unsafe { self.inner.dealloc(ptr, layout) };
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        let ptr = unsafe { self.inner.alloc_zeroed(layout) };
        if !ptr.is_null() {
            count_allocation(ptr, layout.size());
        }
        ptr
    }

    // It is called in one place of a program, the one that `#[global_allocator]` makes.
    #[inline(always)]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if sampler::may_be_live(ptr.addr()) {
            // SAFETY: the caller's promises are passed on unchanged (invariant 1).
            return unsafe { self.resize_sampled(ptr, layout, new_size) };
        }
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        unsafe { self.resize(ptr, layout, new_size) }
    }
}

impl<A: GlobalAlloc> TrackingAllocator<A> {
    /// Resizes a block and counts that.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`].
    #[inline(always)]
    unsafe fn resize(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // As one of both is, since it is a power of two.
        if layout.size() | new_size >= LARGE {
            // SAFETY: the caller's promises are passed on unchanged (invariant 1).
            let call = || unsafe { self.inner.realloc(ptr, layout, new_size) };
            return count_large_reallocation(ptr, layout.size(), new_size, call);
        }
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        let new_ptr = unsafe { self.inner.realloc(ptr, layout, new_size) };
        if !new_ptr.is_null() {
            count_reallocation(new_ptr, layout.size(), new_size);
        }
        new_ptr
    }

    /// The same for a block that may be in the profile.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`].
    #[cold]
    #[inline(never)]
    unsafe fn resize_sampled(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let samples = LiveSamples::take(ptr.addr());
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        let new_ptr = unsafe { self.resize(ptr, layout, new_size) };
        if new_ptr.is_null() {
            samples.put_back(ptr.addr());
        } else {
            samples.resized(new_ptr.addr(), layout.size(), new_size);
        }
        new_ptr
    }
}

// Counted in the calling thread's block. A thread without one has a block that has each count looked at
// again: it is counted in a new block, or in the shared counters if the thread cannot have one. Such
// a thread has entered no account.

#[inline]
fn count_allocation(ptr: *mut u8, size: usize) {
    let block = raw::block();
    if block.allocated(size) {
        look_at_allocation(block, ptr, size);
    }
}

#[cold]
#[inline(never)]
fn look_at_allocation(block: &Block, ptr: *mut u8, size: usize) {
    match raw::own() {
        Some(_) => visits::allocated(block, ptr.addr(), size),
        None => match raw::own_block() {
            Some(block) => _ = block.allocated(size),
            None => shared::allocated(size),
        },
    }
}

#[inline]
fn count_deallocation(ptr: *mut u8, size: usize) {
    let block = raw::block();
    if block.deallocated(size) {
        look_at_deallocation(block, ptr, size);
    }
}

#[cold]
#[inline(never)]
fn look_at_deallocation(block: &Block, ptr: *mut u8, size: usize) {
    if raw::own().is_some() {
        visits::deallocated(block, ptr.addr(), size);
        return;
    }
    match raw::own_block() {
        Some(block) => _ = block.deallocated(size),
        None => shared::deallocated(size),
    }
    if size >= LARGE {
        raw::take_owners(ptr.addr(), |record| record.lost(size));
    }
}

/// Both sizes are below [`LARGE`].
#[inline]
fn count_reallocation(ptr: *mut u8, from: usize, to: usize) {
    let block = raw::block();
    if block.reallocated(from, to) {
        look_at_reallocation(block, ptr, from, to);
    }
}

#[cold]
#[inline(never)]
fn look_at_reallocation(block: &Block, ptr: *mut u8, from: usize, to: usize) {
    match raw::own() {
        Some(_) => visits::reallocated(block, ptr.addr(), from, to),
        None => match raw::own_block() {
            Some(block) => _ = block.reallocated(from, to),
            None => shared::reallocated(from, to),
        },
    }
}

#[cold]
#[inline(never)]
fn count_large_reallocation(
    ptr: *mut u8,
    from: usize,
    to: usize,
    call: impl FnOnce() -> *mut u8,
) -> *mut u8 {
    // Before the call: another thread may get the same address as soon as it has returned.
    let mut owners: [Option<RecordRef>; frames::MAX_DEPTH] = [const { None }; frames::MAX_DEPTH];
    if from >= LARGE {
        let mut places = owners.iter_mut();
        raw::take_owners(ptr.addr(), |record| {
            if let Some(place) = places.next() {
                *place = Some(record);
            }
        });
    }
    let owners = owners.into_iter().flatten();
    let new_ptr = call();
    if new_ptr.is_null() {
        for record in owners {
            let again = record.clone();
            if !raw::add_owner(ptr.addr(), again) {
                record.missed();
            }
        }
        return new_ptr;
    }
    let block = raw::own_block();
    if let Some(block) = block {
        visits::resizes(block);
    }
    owners.for_each(|record| record.lost(from));
    match block {
        Some(block) => {
            block.reallocated_large(from, to);
            visits::resized(block, new_ptr.addr(), from, to);
        }
        None => shared::reallocated(from, to),
    }
    new_ptr
}
