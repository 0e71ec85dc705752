use super::{
    counters::{Counters, Writer},
    tag::Tag,
};
use crate::{
    arena::{ArenaSlot, IdleArena},
    sync::{AtomicBool, AtomicUsize, Ordering},
};

/// Arenas that a thread cache holds.
const SLOTS: usize = if cfg!(tower_memory_loom) { 1 } else { 8 };

// `PoolBuilder::max_total_bytes` says so; it also counts the hot arena.
const _: () = assert!(SLOTS == 8 || cfg!(tower_memory_loom));

/// What one thread keeps of a pool: a few arenas, its counters, and its credit.
///
/// # Invariants
///
/// 1. Only the owning thread puts arenas into the slots, and writes the counters and the credit.
///    Any thread may take arenas out, and read.
///
/// Aligned to a pair of cache lines: two threads' caches never share one.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ThreadCache {
    slots: [ArenaSlot; SLOTS],
    owned: AtomicBool,
    pub(super) counters: Counters,
    /// Bytes the thread has reserved without an arena for them. See
    /// [`ByteBudget`](super::budget::ByteBudget).
    pub(super) credit: AtomicUsize,
}

impl ThreadCache {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            slots: std::array::from_fn(|_| ArenaSlot::new()),
            owned: AtomicBool::new(false),
            counters: Counters::new(writer),
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

    /// Takes an arena whose tag suits. For any thread: a slot whose tag has changed meanwhile is
    /// left alone.
    #[inline]
    pub(super) fn take_if(&self, suits: impl Fn(Tag) -> bool) -> Option<IdleArena> {
        self.slots.iter().find_map(|slot| {
            let tag = slot.tag()?;
            suits(Tag::from_bits(tag))
                .then(|| slot.take_tagged(tag))
                .flatten()
        })
    }

    /// Takes an arena with its tag. For the owner.
    pub(super) fn take_with_tag(&self) -> Option<(IdleArena, Tag)> {
        self.slots.iter().find_map(|slot| {
            let tag = slot.tag()?;
            Some((slot.take()?, Tag::from_bits(tag)))
        })
    }

    /// Keeps `arena`, or returns it if all slots are full. For the owner.
    #[inline]
    pub(super) fn put(&self, arena: IdleArena, tag: Tag) -> Option<IdleArena> {
        let mut arena = Some(arena);
        for slot in &self.slots {
            match arena.take() {
                Some(given) => arena = slot.put(given, tag.bits()),
                None => break,
            }
        }
        arena
    }
}
