use std::cell::Cell;

use super::{
    counters::{Counters, Writer},
    tag::Tag,
};
use crate::{
    arena::{IdleArena, IdleBlock, Pooled, Slot},
    sync::{AtomicBool, AtomicUsize, Ordering},
};

/// Arenas that a thread cache holds, and as many blocks.
const SLOTS: usize = if cfg!(tower_memory_loom) { 1 } else { 8 };

// `PoolBuilder::max_total_bytes` says so; it also counts the hot ones.
const _: () = assert!(SLOTS == 8 || cfg!(tower_memory_loom));

/// What one thread keeps of a pool: a few arenas and blocks, its counters, and its credit.
///
/// # Invariants
///
/// 1. Only the owning thread puts items into the slots, and writes the counters and the credit.
///    Any thread may take items out, and read.
///
/// Aligned to a pair of cache lines: two threads' caches never share one.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ThreadCache {
    pub(super) arenas: Share<IdleArena>,
    pub(super) blocks: Share<IdleBlock>,
    owned: AtomicBool,
    /// Bytes the thread has reserved without an item for them. See
    /// [`ByteBudget`](super::budget::ByteBudget).
    pub(super) credit: AtomicUsize,
}

/// What a thread got back last, if it is small. No other thread can reach it, so taking it needs no
/// atomic operation. One block for all sizes: a thread keeps little that no other one can trim.
#[derive(Default)]
pub(super) struct Hot {
    pub(super) arena: Cell<Option<IdleArena>>,
    pub(super) block: Cell<Option<IdleBlock>>,
}

/// The part of a [`ThreadCache`] for one kind of items.
#[derive(Debug)]
pub(super) struct Share<T: Pooled> {
    slots: [Slot<T>; SLOTS],
    pub(super) counters: Counters,
}

impl ThreadCache {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            arenas: Share::new(writer),
            blocks: Share::new(writer),
            owned: AtomicBool::new(false),
            credit: AtomicUsize::new(0),
        }
    }

    /// Makes the calling thread the owner, if there is none.
    pub(super) fn try_own(&self) -> bool {
        // Acquire: the new owner continues the former owner's counters.
        self.owned
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Ends the calling thread's ownership.
    pub(super) fn disown(&self) {
        // Release: pairs with `try_own`.
        self.owned.store(false, Ordering::Release);
    }
}

impl<T: Pooled> Share<T> {
    fn new(writer: Writer) -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot::new()),
            counters: Counters::new(writer),
        }
    }

    /// Takes an item whose tag suits. For any thread: a slot whose tag has changed meanwhile is
    /// left alone.
    #[inline]
    pub(super) fn take_if(&self, suits: impl Fn(Tag) -> bool) -> Option<T> {
        self.slots.iter().find_map(|slot| {
            let tag = slot.tag()?;
            suits(Tag::from_bits(tag))
                .then(|| slot.take_tagged(tag))
                .flatten()
        })
    }

    /// Takes an item with its tag. For the owner.
    pub(super) fn take_with_tag(&self) -> Option<(T, Tag)> {
        self.slots.iter().find_map(|slot| {
            let tag = slot.tag()?;
            Some((slot.take()?, Tag::from_bits(tag)))
        })
    }

    /// Keeps `item`, or returns it if all slots are full. For the owner.
    #[inline]
    pub(super) fn put(&self, item: T, tag: Tag) -> Option<T> {
        let mut item = Some(item);
        for slot in &self.slots {
            match item.take() {
                Some(given) => item = slot.put(given, tag.bits()),
                None => break,
            }
        }
        item
    }
}
