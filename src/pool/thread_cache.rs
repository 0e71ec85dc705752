use super::{class::Wanted, tag::Tag};
use crate::{
    arena::{ArenaSlot, IdleArena},
    sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// Arenas that wait with one thread.
pub(super) const SLOTS: usize = if cfg!(tower_memory_loom) { 1 } else { 8 };

// `PoolBuilder::max_total_bytes` says so, and counts the one at hand.
const _: () = assert!(SLOTS == 8 || cfg!(tower_memory_loom));

/// Whether counters have one writer or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Exclusive,
    Shared,
}

/// What one thread keeps of a pool: a few arenas, and its share of the figures.
///
/// # Invariants
///
/// 1. Only the thread that owns the slots puts arenas into them and writes the figures. Any thread
///    may take arenas out, and read.
/// 2. The figures only grow, but for `float`, so sums over all slots miss nothing.
///
/// Aligned so that two threads' slots never share a pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ThreadCache {
    slots: [ArenaSlot; SLOTS],
    owned: AtomicBool,
    pub(super) counters: Counters,
    /// Bytes this thread may keep without asking.
    pub(super) credit: AtomicUsize,
}

/// A thread's share of the pool's figures.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) returned: AtomicU64,
    /// Arenas that were freed, when they came back or while they waited.
    pub(super) freed: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    /// Bytes that arenas took from the system.
    pub(super) grown_bytes: AtomicU64,
    writer: Writer,
}

impl Counters {
    /// Adds to one of the figures.
    #[inline]
    pub(super) fn add(&self, figure: &AtomicU64, by: u64) {
        // Relaxed: figures, complete in themselves.
        match self.writer {
            Writer::Exclusive => {
                let now = figure.load(Ordering::Relaxed);
                figure.store(now.wrapping_add(by), Ordering::Relaxed);
            }
            Writer::Shared => {
                figure.fetch_add(by, Ordering::Relaxed);
            }
        }
    }
}

impl Counters {
    /// Counts an arena that came back, before which `returned` had. For the one writer.
    #[inline]
    pub(super) fn count_return(&self, returned: u64) {
        // Release: who sees it come back sees it go out (`PoolState::stats`).
        self.returned
            .store(returned.wrapping_add(1), Ordering::Release);
    }

    /// Counts an arena that came back.
    pub(super) fn add_return(&self) {
        match self.writer {
            Writer::Exclusive => self.count_return(self.returned.load(Ordering::Relaxed)),
            Writer::Shared => {
                // Release: as in `count_return`.
                self.returned.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Counts an arena that a thread took from its own, and tells how many there were before.
    #[inline]
    pub(super) fn count_hit(&self) -> u64 {
        // Relaxed: as in `add`, by the one writer.
        let before = self.hits.load(Ordering::Relaxed);
        self.hits.store(before.wrapping_add(1), Ordering::Relaxed);
        before
    }
}

impl ThreadCache {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            slots: std::array::from_fn(|_| ArenaSlot::new()),
            owned: AtomicBool::new(false),
            counters: Counters {
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
                returned: AtomicU64::new(0),
                freed: AtomicU64::new(0),
                evicted_bytes: AtomicU64::new(0),
                grown_bytes: AtomicU64::new(0),
                writer,
            },
            credit: AtomicUsize::new(0),
        }
    }

    /// Makes the calling thread the owner, unless there is one.
    pub(super) fn try_own(&self) -> bool {
        // Acquire: the former owner's figures are seen, and added to.
        self.owned
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// The owner ends.
    pub(super) fn disown(&self) {
        // Release: pairs with the next owner's claim.
        self.owned.store(false, Ordering::Release);
    }

    /// Takes an arena that will do. For the owner.
    #[inline]
    pub(super) fn take(&self, wanted: Wanted) -> Option<IdleArena> {
        for slot in &self.slots {
            let suits = |tag| wanted.includes(Tag::from_bits(tag).class());
            if !slot.tag().is_some_and(suits) {
                continue;
            }
            // Somebody who trims may have been faster.
            if let Some(arena) = slot.take() {
                return Some(arena);
            }
        }
        None
    }

    /// Takes an arena that waits, if its tag suits. For anybody: a place that was emptied meanwhile is
    /// left alone.
    pub(super) fn take_if(&self, suits: impl Fn(Tag) -> bool) -> Option<IdleArena> {
        self.slots.iter().find_map(|slot| {
            let tag = slot.tag()?;
            suits(Tag::from_bits(tag))
                .then(|| slot.take_tagged(tag))
                .flatten()
        })
    }

    /// Takes an arena, and tells its tag. For the owner.
    pub(super) fn take_with_tag(&self) -> Option<(IdleArena, Tag)> {
        self.slots.iter().find_map(|slot| {
            let tag = slot.tag()?;
            Some((slot.take()?, Tag::from_bits(tag)))
        })
    }

    /// Keeps `arena`, or returns it if all places are taken. For the owner.
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
