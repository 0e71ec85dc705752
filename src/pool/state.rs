use std::{fmt, iter};

use super::{
    budget::ByteBudget,
    builder::Settings,
    class::{Classes, Wanted},
    local::{self, Local},
    shared_cache::{BATCH, SharedCache},
    stats::PoolStats,
    tag::Tag,
    thread_cache::{ThreadCache, Writer},
};
use crate::{
    arena::{IdleArena, PoolHint},
    background::Background,
    sync::{Arc, AtomicBool, AtomicUsize, Ordering},
};

/// After this many hits a thread looks whether the pool's timer runs; at each miss it does so anyway.
const TIMER_EVERY: u64 = 256;

/// What all handles of a pool, its threads and its arenas share.
///
/// # Invariants
///
/// 1. Who keeps an arena has claimed its bytes before ([`ByteBudget`]).
/// 2. An arena holds a reference to its pool for as long as it exists, whether it waits or is out.
///    The circle is broken when the last handle of the pool closes it.
pub(super) struct PoolState {
    pub(super) settings: Settings,
    pub(super) classes: Classes,
    /// Claimed by threads, one each.
    pub(super) thread_caches: Box<[Arc<ThreadCache>]>,
    /// For threads that have none; keeps no arenas.
    pub(super) common: ThreadCache,
    pub(super) shared_cache: SharedCache,
    pub(super) budget: ByteBudget,
    /// Counted up by the timer. See [`Tag::is_stale`].
    pub(super) epoch: AtomicUsize,
    pub(super) closed: AtomicBool,
    pub(super) trimmer: Background,
}

impl PoolState {
    pub(super) fn new(settings: Settings) -> Self {
        let threads = if cfg!(tower_memory_loom) {
            2
        } else {
            std::thread::available_parallelism().map_or(1, usize::from) * 4
        };
        let most = if cfg!(tower_memory_loom) { 2 } else { 32 };
        let slots = threads.max(most);
        Self {
            classes: Classes::new(settings.initial_bytes, settings.max_arena_bytes),
            thread_caches: iter::repeat_with(|| Arc::new(ThreadCache::new(Writer::Exclusive)))
                .take(slots)
                .collect(),
            common: ThreadCache::new(Writer::Shared),
            shared_cache: SharedCache::new(),
            budget: ByteBudget::new(settings.max_total_bytes, slots),
            epoch: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            trimmer: Background::default(),
            settings,
        }
    }

    /// An arena that will do.
    #[inline]
    pub(super) fn rent(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        let pool = Arc::as_ptr(self).addr();
        let rented = local::with_first(pool, |local| Some(self.rent_local(wanted, local)));
        match rented {
            Some(arena) => arena,
            None => self.rent_cold(wanted),
        }
    }

    #[inline]
    fn rent_local(self: &Arc<Self>, wanted: Wanted, local: &Local) -> IdleArena {
        match self.rent_hot(wanted, local) {
            Some(arena) => arena,
            None => self.rent_with(wanted, Some(&local.cache)),
        }
    }

    /// Takes the arena that came back to the calling thread last.
    #[inline]
    fn rent_hot(self: &Arc<Self>, wanted: Wanted, local: &Local) -> Option<IdleArena> {
        let mut hot = local.hot.take()?;
        let note = hot.hint();
        if !wanted.includes(note.class.into()) {
            local.hot.set(Some(hot));
            return None;
        }
        let counters = &local.cache.counters;
        if counters.count_hit() % TIMER_EVERY == 0 {
            self.ensure_trimming();
        }
        self.budget.release(Some(&local.cache), note.capacity);
        hot.mark_reused();
        Some(hot)
    }

    #[cold]
    #[inline(never)]
    fn rent_cold(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        local::with_any(self, |local| self.rent_local(wanted, local))
            .unwrap_or_else(|| self.rent_with(wanted, None))
    }

    #[inline(never)]
    pub(super) fn rent_with(
        self: &Arc<Self>,
        wanted: Wanted,
        cache: Option<&ThreadCache>,
    ) -> IdleArena {
        match cache.and_then(|cache| Some((cache, cache.take(wanted)?))) {
            Some((cache, mut arena)) => {
                if cache.counters.count_hit() % TIMER_EVERY == 0 {
                    self.ensure_trimming();
                }
                self.went_out(Some(cache), &mut arena);
                arena
            }
            None => self.rent_elsewhere(wanted, cache),
        }
    }

    /// From the shelf, from another thread, or a new one.
    fn rent_elsewhere(self: &Arc<Self>, wanted: Wanted, cache: Option<&ThreadCache>) -> IdleArena {
        let counters = &cache.unwrap_or(&self.common).counters;
        // A thread without slots takes one at a time.
        let most = if cache.is_some() { BATCH as u32 } else { 1 };
        let mut batch = self.shared_cache.take(wanted, most).into_iter().flatten();
        let found = batch.next().map(|(arena, _)| arena);
        for (arena, tag) in batch {
            // Its bytes stay claimed: it waits here instead of there.
            let refused = match cache {
                Some(cache) => cache.put(arena, tag),
                None => Some(arena),
            };
            let refused = refused.and_then(|arena| self.shared_cache.put(arena, tag));
            drop(refused.map(|arena| self.evict(cache, arena)));
        }
        // Rather one that another thread does not need right now than a new one.
        let suits = |tag: Tag| wanted.includes(tag.class());
        let found = found.or_else(|| {
            self.thread_caches
                .iter()
                .find_map(|other| other.take_if(suits))
        });
        let arena = match found {
            Some(mut arena) => {
                counters.add(&counters.hits, 1);
                self.went_out(cache, &mut arena);
                arena
            }
            None => {
                counters.add(&counters.misses, 1);
                let mut arena = IdleArena::new(self.classes.size(wanted.class));
                arena.attach(Arc::clone(self));
                // If nobody uses it, it may wait as it is for who rents next.
                arena.set_hint(PoolHint {
                    capacity: 0,
                    class: wanted.class as u8,
                    hot: self.settings.enabled,
                });
                arena
            }
        };
        self.ensure_trimming();
        arena
    }

    /// Accounts for an arena that waited and is used again.
    #[inline]
    fn went_out(&self, cache: Option<&ThreadCache>, arena: &mut IdleArena) {
        self.budget.release(cache, arena.capacity());
        arena.mark_reused();
    }

    /// Accounts for an arena that waited and is freed.
    pub(super) fn evict(&self, cache: Option<&ThreadCache>, arena: IdleArena) -> IdleArena {
        let counters = &cache.unwrap_or(&self.common).counters;
        counters.add(&counters.evicted_bytes, arena.capacity() as u64);
        counters.add(&counters.freed, 1);
        self.budget.release(cache, arena.capacity());
        arena
    }

    /// Whether the pool has closed, in one order with its closing: if not, [`close`](Self::close)
    /// finds the arenas that the caller has put somewhere before.
    pub(super) fn has_closed(&self) -> bool {
        // A read-modify-write, as in `close`: they follow one another. Release and acquire: the
        // later one sees what was done before the earlier one.
        self.closed.fetch_or(false, Ordering::AcqRel)
    }

    /// Frees all waiting arenas for which `stale` is true, and returns how many bytes that were.
    fn sweep(&self, stale: impl Fn(Tag) -> bool + Copy) -> usize {
        let mut bytes = 0;
        let mut free = |arena: IdleArena| {
            bytes += arena.capacity();
            // Not the calling thread's float: what is trimmed is everybody's.
            drop(self.evict(None, arena));
        };
        for cache in &self.thread_caches {
            while let Some(arena) = cache.take_if(stale) {
                free(arena);
            }
        }
        self.shared_cache.sweep(stale, free);
        bytes
    }

    /// Frees all waiting arenas that the calling thread can reach, and returns how many bytes that
    /// were.
    pub(super) fn trim(&self) -> usize {
        let pool = std::ptr::from_ref(self).addr();
        let hot = local::with(pool, |local| local.hot.take()).flatten();
        let bytes = hot.map_or(0, |hot| {
            let bytes = hot.capacity();
            drop(self.evict(None, hot));
            bytes
        });
        bytes + self.sweep(|_| true)
    }

    /// Begins a new epoch, and frees the arenas that waited for all of the former one.
    pub(super) fn tick(&self) {
        // Relaxed: see `return_with`.
        let now = self.epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.sweep(|tag| tag.is_stale(now));
        // A sweep puts back what turns out to be wanted, perhaps where a closing pool has passed.
        if self.has_closed() {
            self.trim();
        }
    }

    /// Whether nothing waits and nothing is out.
    ///
    /// What a thread has at hand cannot be trimmed, but it comes back as something that can once it was
    /// used for more.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.stats();
        now.rented == 0 && now.pooled == 0
    }

    /// The last handle is gone.
    pub(super) fn close(&self) {
        // See `has_closed`.
        self.closed.swap(true, Ordering::AcqRel);
        self.trimmer.stop();
        self.trim();
    }

    pub(super) fn stats(&self) -> PoolStats {
        let all = || {
            self.thread_caches
                .iter()
                .map(AsRef::as_ref)
                .chain([&self.common])
        };
        PoolStats::sum(all, &self.budget)
    }
}

impl fmt::Debug for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolState")
            .field("settings", &self.settings)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
