//! The list of all threads' blocks of counters.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr,
};

use crate::{
    account::counters::{Block, Counters},
    sync::{AtomicBool, AtomicPtr, Ordering},
};

/// A node of the registry, with one block of counters.
struct Node {
    block: Block,
    claimed: AtomicBool,
    /// The previous head of the list. Written before the node is published.
    next: *const Self,
}

// SAFETY: `claimed` and the counters of `block` are made of atomics, the rest of `block` is used by its
// owner only (invariant 6), and `next` is written once, before the node is published (invariant 5).
unsafe impl Sync for Node {}

/// The block of threads that have none.
struct NoBlock(Block);

static NO_BLOCK: NoBlock = NoBlock(Block::none());

// SAFETY: its counters are made of atomics, and the rest is never written (invariant 7).
unsafe impl Sync for NoBlock {}

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
            // SAFETY: a pointer from the list is null or valid for ever (invariant 5).
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
            // Acquire: makes the last values of the former owner visible (invariant 6).
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
        // back to the global allocator (invariant 2 of `allocator.rs`).
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
                // SAFETY: written above, never freed (invariant 5).
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
    // `const` and without `Drop`: an access is one instruction, never registers a destructor and never
    // allocates. Inside a global allocator, correctness depends on that.
    static OWN: Cell<*const Block> = const { Cell::new(&raw const NO_BLOCK.0) };
    static PHASE: Cell<Phase> = const { Cell::new(Phase::New) };
    // The destructor releases the block. Registering it may allocate on some platforms, so the phase
    // is `Detached` meanwhile.
    static HAND_BACK: HandBack = const { HandBack(Cell::new(None)) };
}

struct HandBack(Cell<Option<&'static Node>>);

impl Drop for HandBack {
    fn drop(&mut self) {
        disown_block();
        let _ = PHASE.try_with(|phase| phase.set(Phase::Detached));
        if let Some(node) = self.0.take() {
            // Release: makes this thread's last values visible to the next owner (invariant 6).
            node.claimed.store(false, Ordering::Release);
        }
    }
}

/// Returns the block of the calling thread, or one that nothing is counted in. The latter has each count
/// looked at.
#[inline]
pub(in crate::account) fn block() -> &'static Block {
    // Cannot fail: the cell has no destructor.
    let block = OWN.try_with(Cell::get).unwrap_or(&raw const NO_BLOCK.0);
    // SAFETY: the block of a node, which is never freed (invariant 5), or a static (invariant 7).
    unsafe { &*block }
}

/// Returns the block that the calling thread owns, if it has one.
#[inline]
pub(in crate::account) fn own() -> Option<&'static Block> {
    let block = block();
    (!ptr::eq(block, &raw const NO_BLOCK.0)).then_some(block)
}

/// Returns the block of the calling thread, and claims one at the first call.
///
/// Returns `None` while a block is being claimed, after the thread released it, or without memory.
#[cold]
#[inline(never)]
pub(in crate::account) fn own_block() -> Option<&'static Block> {
    if let Some(block) = own() {
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
            node.block.begin();
            let _ = OWN.try_with(|own| own.set(&raw const node.block));
            let _ = PHASE.try_with(|phase| phase.set(Phase::Attached));
            Some(&node.block)
        })
        .ok()
        .flatten()
}

/// The calling thread counts in its block no more.
pub(in crate::account) fn disown_block() {
    let _ = OWN.try_with(|own| own.set(&raw const NO_BLOCK.0));
}

/// The counters of all threads, ended ones included.
pub(in crate::account) fn counters() -> impl Iterator<Item = &'static Counters> {
    REGISTRY.nodes().map(|node| node.block.counters())
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
