//! The global allocator that counts (unsafe module 1 of 2).
//!
//! # Invariants
//!
//! 1. Every `GlobalAlloc` call is forwarded unchanged to the same method of the inner allocator,
//!    and its result is returned unchanged. Counting happens after the call and only if it
//!    succeeded.
//! 2. Nothing here allocates through the global allocator, locks, panics or calls user code. A
//!    thread's block of counters comes straight from [`System`], once, and is never freed.
//! 3. The list of blocks only grows at its head and blocks are never freed, so a pointer read
//!    from the list is valid for the rest of the process.
//! 4. A block's `claimed` flag is true while it is some thread's own. It goes from false to true by
//!    compare-and-swap (acquire) and back by a release store of the owner, so the next owner
//!    continues from the former owner's last values.
#![expect(
    unsafe_code,
    reason = "implements GlobalAlloc and shares counters between threads"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt,
    hint::black_box,
    ptr,
};

use super::{
    counters::{self, Block, SHARED},
    usage::HeapUsage,
};
use crate::sync::{AtomicBool, AtomicPtr, Ordering};

/// A global allocator that counts what each thread allocates and frees.
///
/// It forwards every call to the allocator it wraps and adds a few plain additions to counters
/// of the calling thread: no shared atomic, no lock, and no knowledge of requests. Those counters
/// are what [`Account`](super::Account) and the middleware's figures are made from.
///
/// Wrap one allocator only, and install it once: with two of them around each other everything
/// would be counted twice.
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
    /// Counts around the system allocator.
    #[must_use]
    pub const fn system() -> Self {
        Self { inner: System }
    }
}

impl<A> TrackingAllocator<A> {
    /// Counts around `inner`.
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
            count_alloc(layout.size());
        }
        ptr
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        unsafe { self.inner.dealloc(ptr, layout) };
        match counters::own() {
            Some(block) => block.deallocated(layout.size()),
            None => attached().map_or_else(
                || SHARED.deallocated_by_any(layout.size()),
                |block| block.deallocated(layout.size()),
            ),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        let ptr = unsafe { self.inner.alloc_zeroed(layout) };
        if !ptr.is_null() {
            count_alloc(layout.size());
        }
        ptr
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on unchanged (invariant 1).
        let new_ptr = unsafe { self.inner.realloc(ptr, layout, new_size) };
        if !new_ptr.is_null() {
            match counters::own() {
                Some(block) => block.reallocated(layout.size(), new_size),
                None => attached().map_or_else(
                    || SHARED.reallocated_by_any(layout.size(), new_size),
                    |block| block.reallocated(layout.size(), new_size),
                ),
            }
        }
        new_ptr
    }
}

#[inline]
fn count_alloc(size: usize) {
    match counters::own() {
        Some(block) => block.allocated(size),
        None => attached().map_or_else(
            || SHARED.allocated_by_any(size),
            |block| block.allocated(size),
        ),
    }
}

/// A block of counters and its place in the registry.
struct Node {
    block: Block,
    claimed: AtomicBool,
    /// The node that was the head when this one was pushed; written before it is published.
    next: *const Self,
}

// SAFETY: `block` and `claimed` are made of atomics and `next` is written once, before the node
// is published (invariant 3).
unsafe impl Sync for Node {}

/// All blocks there ever were, newest first.
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

    /// A block for the calling thread alone: one that an ended thread left, or a new one.
    /// `None` if the system has no memory for it.
    fn claim(&self) -> Option<&'static Node> {
        for node in self.nodes() {
            // The load keeps running threads from taking each other's cache line.
            // Acquire: the former owner's last values are seen (invariant 4).
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
            // Release: publishes the node's fields to whoever walks the list.
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
    /// No block yet: the next allocation claims one.
    New,
    /// A block is being claimed, or could not be had, or was given back at the thread's end.
    Detached,
    Attached,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::New) };
    // Its destructor hands the block on. Registering it may allocate on some platforms, which is
    // why the phase is `Detached` meanwhile.
    static HAND_BACK: HandBack = const { HandBack(Cell::new(None)) };
}

struct HandBack(Cell<Option<&'static Node>>);

impl Drop for HandBack {
    fn drop(&mut self) {
        counters::set_own(None);
        let _ = PHASE.try_with(|phase| phase.set(Phase::Detached));
        if let Some(node) = self.0.take() {
            // Release: the next owner sees this thread's last values (invariant 4).
            node.claimed.store(false, Ordering::Release);
        }
    }
}

/// The calling thread's own block, claimed if it has none yet.
///
/// `None` before the block is there, after the thread gave it back, or without memory for one.
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
            counters::set_own(Some(&node.block));
            let _ = PHASE.try_with(|phase| phase.set(Phase::Attached));
            Some(&node.block)
        })
        .ok()
        .flatten()
}

/// The calling thread's counters, or `None` if it has none of its own.
#[inline]
pub(super) fn own_block() -> Option<&'static Block> {
    counters::own().or_else(attached)
}

/// Whether a [`TrackingAllocator`] is the program's global allocator.
///
/// Found out by allocating once and looking whether it was counted, so an allocator that exists
/// but was not installed does not count.
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
            // This thread cannot tell (it is ending): leave the question open.
            return false;
        };
        let before = block.read().allocations;
        drop(black_box(Box::new(0_u64)));
        let installed = block.read().allocations != before;
        // Relaxed: the answer is the same whoever computes it.
        STATE.store(if installed { YES } else { NO }, Ordering::Relaxed);
        installed
    }

    match STATE.load(Ordering::Relaxed) {
        YES => true,
        NO => false,
        _ => probe(),
    }
}

/// What the whole process has allocated and freed since it started, ended threads included.
///
/// `None` if no [`TrackingAllocator`] is installed. The figures are a sum over threads that go on
/// running meanwhile: each is true at some moment during the call, and none is ever missed.
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

/// What the threads that used the calling thread's counters have allocated and freed so far.
///
/// Counters are handed on when a thread ends, so only differences between two calls on one
/// thread speak of that thread. `None` if no [`TrackingAllocator`] is installed.
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

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("block", &self.block)
            .finish_non_exhaustive()
    }
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
