//! The global allocator that counts (unsafe module 1 of 2).
//!
//! # Invariants
//!
//! 1. Every `GlobalAlloc` call is forwarded unchanged to the same method of the inner allocator,
//!    and its result is returned unchanged. What is counted has happened, or is a free and cannot
//!    fail.
//! 2. Nothing here allocates through the global allocator, locks, panics or calls user code. A
//!    thread's block of counters comes straight from [`System`], once, and is never freed. So do the
//!    records and the table of `raw`.
//! 3. The list of blocks only grows at its head and blocks are never freed, so a pointer read
//!    from the list is valid for the rest of the process.
//! 4. A block's `claimed` flag is true while a thread owns it. It goes from false to true by
//!    compare-and-swap (acquire) and back by a release store of the owner, so the next owner
//!    continues from the last values of the former owner.
#![expect(
    unsafe_code,
    reason = "implements GlobalAlloc and shares counters between threads"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    ptr,
};

use super::{
    counters::{self, Block, LARGE, SHARED, Writer},
    frames,
    raw::{self, RecordRef},
    usage::HeapUsage,
};
use crate::sync::{AtomicBool, AtomicPtr, Ordering};

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

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.size() >= LARGE || new_size >= LARGE {
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
}

// Counted in the calling thread's block, or in the shared one if the thread cannot have a block. A
// thread without a block has entered no account.

#[inline]
fn count_allocation(ptr: *mut u8, size: usize) {
    match own_block() {
        Some(block) => {
            if block.allocated(size, Writer::Exclusive) {
                frames::allocated(block, ptr.addr(), size);
            }
        }
        None => {
            SHARED.allocated(size, Writer::Shared);
        }
    }
}

#[inline]
fn count_deallocation(ptr: *mut u8, size: usize) {
    match own_block() {
        Some(block) => {
            if block.deallocated(size, Writer::Exclusive) {
                frames::deallocated(block, ptr.addr(), size);
            }
        }
        None => {
            SHARED.deallocated(size, Writer::Shared);
            if size >= LARGE {
                raw::disown(ptr.addr(), |record| record.lost(size));
            }
        }
    }
}

/// Both sizes are below [`LARGE`].
#[inline]
fn count_reallocation(ptr: *mut u8, from: usize, to: usize) {
    match own_block() {
        Some(block) => {
            if block.reallocated(from, to, Writer::Exclusive) {
                frames::allocated(block, ptr.addr(), to.wrapping_sub(from));
            }
        }
        None => {
            SHARED.reallocated(from, to, Writer::Shared);
        }
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
        raw::disown(ptr.addr(), |record| {
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
            if !raw::own(ptr.addr(), again) {
                record.missed();
            }
        }
        return new_ptr;
    }
    let block = own_block();
    if let Some(block) = block {
        frames::resizes(block);
    }
    owners.for_each(|record| record.lost(from));
    match block {
        Some(block) => {
            block.reallocated(from, to, Writer::Exclusive);
            frames::resized(block, new_ptr.addr(), from, to);
        }
        None => {
            SHARED.reallocated(from, to, Writer::Shared);
        }
    }
    new_ptr
}

/// A node of the registry, with one block of counters.
struct Node {
    block: Block,
    claimed: AtomicBool,
    /// The previous head of the list. Written before the node is published.
    next: *const Self,
}

// SAFETY: `block` and `claimed` are made of atomics and `next` is written once, before the node
// is published (invariant 3).
unsafe impl Sync for Node {}

/// All blocks, newest first.
struct Registry {
    head: AtomicPtr<Node>,
}

impl Registry {
    #[cfg(not(tower_memory_loom))]
    const fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    #[cfg(tower_memory_loom)]
    fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &'static Node> {
        // Acquire: pairs with the release in `add`, so a node's fields are seen as written.
        let mut next: *const Node = self.head.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: a pointer from the list is null or valid for ever (invariant 3).
            let node: &'static Node = unsafe { next.as_ref() }?;
            next = node.next;
            Some(node)
        })
    }

    /// Claims a block for the calling thread: one that an ended thread released, or a new one.
    /// Returns `None` if the system has no memory for it.
    fn claim(&self) -> Option<&'static Node> {
        for node in self.nodes() {
            // The load avoids writes to the cache lines of running threads.
            // Acquire: makes the last values of the former owner visible (invariant 4).
            if !node.claimed.load(Ordering::Relaxed)
                && node
                    .claimed
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Some(node);
            }
        }
        self.add()
    }

    fn add(&self) -> Option<&'static Node> {
        let layout = Layout::new::<Node>();
        // SAFETY: `Node` is not zero-sized. `System` is called directly, so this does not come
        // back to the global allocator (invariant 2).
        let node = unsafe { System.alloc(layout) }.cast::<Node>();
        if node.is_null() {
            return None;
        }
        // Relaxed: the value is only stored in the node and compared below.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: `node` is valid for writes of a `Node`, and ours until it is published.
            unsafe {
                node.write(Node {
                    block: Block::new(),
                    claimed: AtomicBool::new(true),
                    next: head,
                });
            }
            // Release: publishes the fields of the node to threads that walk the list.
            match self
                .head
                .compare_exchange(head, node, Ordering::Release, Ordering::Relaxed)
            {
                // SAFETY: written above, never freed (invariant 3).
                Ok(_) => return Some(unsafe { &*node }),
                Err(newer) => head = newer,
            }
        }
    }
}

#[cfg(not(tower_memory_loom))]
static REGISTRY: Registry = Registry::new();

#[cfg(tower_memory_loom)]
loom::lazy_static! {
    static ref REGISTRY: Registry = Registry::new();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No block yet. The next allocation claims one.
    New,
    /// A block is being claimed, was not available, or was released at the end of the thread.
    Detached,
    Attached,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::New) };
    // The destructor releases the block. Registering it may allocate on some platforms, so the phase
    // is `Detached` meanwhile.
    static HAND_BACK: HandBack = const { HandBack(Cell::new(None)) };
}

struct HandBack(Cell<Option<&'static Node>>);

impl Drop for HandBack {
    fn drop(&mut self) {
        counters::set_own(None);
        let _ = PHASE.try_with(|phase| phase.set(Phase::Detached));
        if let Some(node) = self.0.take() {
            // Release: makes this thread's last values visible to the next owner (invariant 4).
            node.claimed.store(false, Ordering::Release);
        }
    }
}

/// Returns the block of the calling thread, and claims one at the first call.
///
/// Returns `None` while a block is being claimed, after the thread released it, or without memory.
#[cold]
#[inline(never)]
fn attached() -> Option<&'static Block> {
    if let Some(block) = counters::own() {
        return Some(block);
    }
    if PHASE.try_with(Cell::get) != Ok(Phase::New) {
        return None;
    }
    let _ = PHASE.try_with(|phase| phase.set(Phase::Detached));
    HAND_BACK
        .try_with(|hand_back| {
            let node = REGISTRY.claim()?;
            hand_back.0.set(Some(node));
            // The former owner may have ended inside an account.
            node.block.unwatch();
            counters::set_own(Some(&node.block));
            let _ = PHASE.try_with(|phase| phase.set(Phase::Attached));
            Some(&node.block)
        })
        .ok()
        .flatten()
}

/// Returns the block of the calling thread, or `None` if it cannot have one.
#[inline]
pub(super) fn own_block() -> Option<&'static Block> {
    counters::own().or_else(attached)
}

/// Returns whether a [`TrackingAllocator`] is the program's global allocator.
///
/// The first call allocates once and checks whether the allocation was counted.
///
/// # Examples
///
/// ```
/// // This program did not install it.
/// assert!(!tower_memory::account::is_installed());
/// assert!(tower_memory::account::process_usage().is_none());
/// ```
#[must_use]
#[inline]
pub fn is_installed() -> bool {
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    static STATE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(UNKNOWN);

    #[cold]
    fn probe() -> bool {
        let Some(block) = own_block() else {
            // An ending thread cannot tell. The next caller probes again.
            return false;
        };
        let before = block.read().allocations;
        drop(black_box(Box::new(0_u64)));
        let installed = block.read().allocations != before;
        // Relaxed: every thread computes the same result.
        STATE.store(if installed { YES } else { NO }, Ordering::Relaxed);
        installed
    }

    match STATE.load(Ordering::Relaxed) {
        YES => true,
        NO => false,
        _ => probe(),
    }
}

/// Returns the counters of the whole process since its start, including ended threads.
///
/// Returns `None` if no [`TrackingAllocator`] is installed. The result is a sum over threads that keep
/// running: each thread's counters are read at some moment during the call.
///
/// # Examples
///
/// ```
/// use tower_memory::{TrackingAllocator, account::process_usage};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let before = process_usage().expect("installed").bytes_allocated;
/// std::thread::spawn(|| drop(vec![0_u8; 1_000_000])).join().expect("no panic");
/// let after = process_usage().expect("installed").bytes_allocated;
/// assert!(after - before >= 1_000_000);
/// ```
#[must_use]
pub fn process_usage() -> Option<HeapUsage> {
    if !is_installed() {
        return None;
    }
    let blocks = REGISTRY.nodes().map(|node| &node.block);
    let sum = blocks.fold(SHARED.read(), |sum, block| sum.plus(&block.read()));
    Some(sum)
}

/// Returns the counters of the calling thread.
///
/// A new thread continues the counters of an ended one, so only the difference of two calls on the
/// same thread is meaningful. Returns `None` if no [`TrackingAllocator`] is installed.
///
/// # Examples
///
/// ```
/// use tower_memory::{TrackingAllocator, account::thread_usage};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let before = thread_usage().expect("installed");
/// let text = String::with_capacity(64);
/// let after = thread_usage().expect("installed");
/// assert_eq!(after.bytes_allocated - before.bytes_allocated, 64);
/// # drop(text);
/// ```
#[must_use]
pub fn thread_usage() -> Option<HeapUsage> {
    if !is_installed() {
        return None;
    }
    own_block().map(Block::read)
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{
        sync::{Arc, atomic::AtomicUsize},
        thread,
    };

    use super::*;

    #[test]
    fn a_block_that_was_left_has_one_new_owner() {
        loom::model(|| {
            let registry = Arc::new(Registry::new());
            let left = registry.claim().expect("memory");
            left.claimed.store(false, Ordering::Release);

            let owners = Arc::new(AtomicUsize::new(0));
            let claim = {
                let (registry, owners) = (Arc::clone(&registry), Arc::clone(&owners));
                move || {
                    let node = registry.claim().expect("memory");
                    if ptr::eq(node, left) {
                        let others = owners.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(others, 0, "two owners at once");
                        owners.fetch_sub(1, Ordering::Relaxed);
                    }
                    node.claimed.store(false, Ordering::Release);
                }
            };
            let other = thread::spawn(claim.clone());
            claim();
            other.join().expect("no panic");
        });
    }

    #[test]
    fn no_block_is_lost_when_two_threads_add_one() {
        loom::model(|| {
            let registry = Arc::new(Registry::new());
            let other = thread::spawn({
                let registry = Arc::clone(&registry);
                move || registry.add().is_some()
            });
            assert!(registry.add().is_some());
            assert!(other.join().expect("no panic"));
            assert_eq!(registry.nodes().count(), 2);
        });
    }
}
