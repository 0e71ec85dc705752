use std::{fmt, iter};

use super::{
    budget::ByteBudget,
    class::Classes,
    counters::{Counters, Writer},
    settings::{OnTrim, Settings},
    shared_cache::SharedCache,
    stats::PoolStats,
    tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::IdleArena,
    housekeeping::{Housekeeping, Job},
    sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// What the handles of a pool, its threads and its arenas share.
///
/// # Invariants
///
/// 1. The bytes of each waiting arena are reserved in the [`ByteBudget`].
/// 2. An arena references its pool for as long as it exists, waiting or rented. Closing the pool
///    breaks the cycle; the last handle does so when it is dropped.
pub(super) struct PoolState {
    pub(super) settings: Settings,
    pub(super) classes: Classes,
    /// Each is owned by one thread, or free.
    pub(super) thread_caches: Box<[Arc<ThreadCache>]>,
    /// Counts for threads without a cache; keeps no arenas.
    common: ThreadCache,
    pub(super) shared_cache: SharedCache,
    pub(super) budget: ByteBudget,
    /// Incremented by [`tick`](Self::tick). See [`Tag::is_stale`].
    epoch: AtomicUsize,
    /// Set by [`close`](Self::close).
    pub(super) closed: AtomicBool,
    pub(super) housekeeping: Housekeeping,
    pub(super) trimmer: Job,
    pub(super) on_trim: Option<OnTrim>,
    /// Evicted bytes when the hook was called last.
    pub(super) reclaimed: AtomicU64,
}

impl PoolState {
    pub(super) fn new(
        settings: Settings,
        housekeeping: Housekeeping,
        on_trim: Option<OnTrim>,
    ) -> Self {
        let caches = if cfg!(tower_memory_loom) {
            2
        } else {
            (std::thread::available_parallelism().map_or(1, usize::from) * 4).max(32)
        };
        Self {
            classes: Classes::new(settings.initial_bytes, settings.max_arena_bytes),
            thread_caches: iter::repeat_with(|| Arc::new(ThreadCache::new(Writer::Exclusive)))
                .take(caches)
                .collect(),
            common: ThreadCache::new(Writer::Shared),
            shared_cache: SharedCache::new(),
            budget: ByteBudget::new(settings.max_total_bytes, caches),
            epoch: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            housekeeping,
            trimmer: Job::default(),
            on_trim,
            reclaimed: AtomicU64::new(0),
            settings,
        }
    }

    /// The counters of a thread, by its cache if it has one.
    pub(super) fn counters<'a>(&'a self, cache: Option<&'a ThreadCache>) -> &'a Counters {
        &cache.unwrap_or(&self.common).counters
    }

    /// The tag of an arena of `class` that is returned now.
    pub(super) fn tag(&self, class: usize) -> Tag {
        // Relaxed: an arena that gets the former epoch is trimmed one interval early.
        Tag::new(class, self.epoch.load(Ordering::Relaxed))
    }

    /// Accounts for a waiting arena that is going to be freed.
    pub(super) fn evict(&self, cache: Option<&ThreadCache>, arena: IdleArena) -> IdleArena {
        let counters = self.counters(cache);
        counters.add(&counters.evicted_bytes, arena.capacity() as u64);
        counters.add(&counters.freed, 1);
        self.budget.release(cache, arena.capacity());
        arena
    }

    /// Moves a waiting arena to the shared cache, or frees it if that is full.
    pub(super) fn put_shared(&self, cache: Option<&ThreadCache>, arena: IdleArena, tag: Tag) {
        let refused = self.shared_cache.put(arena, tag);
        drop(refused.map(|arena| self.evict(cache, arena)));
    }

    /// Frees all waiting arenas with a stale tag, and returns their bytes. Hot arenas are out of
    /// reach.
    pub(super) fn sweep(&self, stale: impl Fn(Tag) -> bool + Copy) -> usize {
        let mut bytes = 0;
        let mut free = |arena: IdleArena| {
            bytes += arena.capacity();
            // The bytes are not credited to the calling thread: other threads returned these
            // arenas.
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

    /// Begins a new epoch, and frees the arenas that waited for the whole former one.
    pub(super) fn tick(&self) {
        // Relaxed: see `tag`.
        let now = self.epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.sweep(|tag| tag.is_stale(now));
        // A sweep puts back an arena that is not stale after all, maybe after `close` has passed.
        if self.has_closed() {
            self.sweep(|_| true);
        }
    }

    /// Whether no arena waits and none is rented.
    ///
    /// A hot arena counts as waiting. It cannot be trimmed, but it can once a request has grown it.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.stats();
        now.rented == 0 && now.pooled == 0
    }

    /// Whether the pool has closed; a thread may still read `false` for a moment after it has.
    #[inline]
    pub(super) fn seems_closed(&self) -> bool {
        // Relaxed: a guess.
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether the pool has closed. If not, the sweep after [`close`](Self::close) finds the arenas
    /// that the caller has put into a cache before.
    pub(super) fn has_closed(&self) -> bool {
        // A read-modify-write, as in `close`, so the two are ordered. AcqRel: the later one sees
        // everything done before the earlier one.
        self.closed.fetch_or(false, Ordering::AcqRel)
    }

    pub(super) fn stats(&self) -> PoolStats {
        let caches = self.thread_caches.iter().map(AsRef::as_ref);
        PoolStats::sum(&caches.chain([&self.common]), &self.budget)
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
