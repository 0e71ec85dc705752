use std::{fmt, iter};

use super::{
    budget::ByteBudget,
    class::{BlockClasses, Classes},
    counters::{Counters, Writer},
    hook::TrimHook,
    kind::Kind,
    origins::Origins,
    settings::{OnTrim, Settings},
    shared_cache::SharedCaches,
    stats::PoolStats,
    tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::{IdleArena, IdleBlock},
    housekeeping::{Housekeeping, Job},
    sync::{Arc, AtomicBool, AtomicUsize, Ordering},
};

/// What the handles of a pool, its threads and its arenas share.
///
/// # Invariants
///
/// 1. The bytes of each waiting arena and block are reserved in the [`ByteBudget`].
/// 2. An arena or block references its pool for as long as it exists, waiting or rented. Closing the pool
///    breaks the cycle; the last handle does so when it is dropped.
pub(super) struct PoolState {
    pub(super) settings: Settings,
    pub(super) classes: Classes,
    pub(super) block_classes: BlockClasses,
    /// Each is owned by one thread, or free.
    pub(super) thread_caches: Box<[Arc<ThreadCache>]>,
    /// Counts for threads without a cache; keeps nothing.
    common: ThreadCache,
    pub(super) shared: SharedCaches,
    pub(super) budget: ByteBudget,
    pub(super) origins: Origins,
    /// Incremented by [`tick`](Self::tick). See [`Tag::is_stale`].
    epoch: AtomicUsize,
    /// Set by [`close`](Self::close).
    pub(super) closed: AtomicBool,
    pub(super) housekeeping: Housekeeping,
    pub(super) trimmer: Job,
    pub(super) on_trim: Option<Arc<TrimHook>>,
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
            block_classes: BlockClasses::new(settings.max_arena_bytes),
            thread_caches: iter::repeat_with(|| Arc::new(ThreadCache::new(Writer::Exclusive)))
                .take(caches)
                .collect(),
            common: ThreadCache::new(Writer::Shared),
            shared: SharedCaches::new(),
            budget: ByteBudget::new(settings.max_total_bytes, caches),
            origins: Origins::new(),
            epoch: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            on_trim: on_trim.map(|hook| TrimHook::new(hook, &housekeeping)),
            housekeeping,
            trimmer: Job::default(),
            settings,
        }
    }

    /// The counters of a thread for one kind of items, by its cache if it has one.
    pub(super) fn counters<'a, T: Kind + 'a>(
        &'a self,
        cache: Option<&'a ThreadCache>,
    ) -> &'a Counters {
        &T::share(cache.unwrap_or(&self.common)).counters
    }

    /// The tag of an item of `class` that is returned now.
    pub(super) fn tag(&self, class: usize) -> Tag {
        // Relaxed: an item that gets the former epoch is trimmed one interval early.
        Tag::new(class, self.epoch.load(Ordering::Relaxed))
    }

    /// Accounts for a waiting item that is going to be freed.
    pub(super) fn evict<T: Kind>(&self, cache: Option<&ThreadCache>, item: T) -> T {
        let counters = self.counters::<T>(cache);
        counters.add(&counters.evicted_bytes, item.capacity() as u64);
        counters.add(&counters.freed, 1);
        if !bug!("evicted-stays-reserved") {
            self.budget.release(cache, item.capacity());
        }
        item
    }

    /// Moves a waiting item to the shared cache, or frees it if that is full.
    pub(super) fn put_shared<T: Kind>(&self, cache: Option<&ThreadCache>, item: T, tag: Tag) {
        let refused = T::shared(&self.shared).put(item, tag);
        drop(refused.map(|item| self.evict(cache, item)));
    }

    /// Frees all waiting arenas and blocks with a stale tag, and returns their bytes. Hot ones are
    /// out of reach.
    pub(super) fn sweep(&self, stale: impl Fn(Tag) -> bool + Copy) -> usize {
        self.sweep_kind::<IdleArena>(stale) + self.sweep_kind::<IdleBlock>(stale)
    }

    fn sweep_kind<T: Kind>(&self, stale: impl Fn(Tag) -> bool + Copy) -> usize {
        let mut bytes = 0;
        let mut free = |item: T| {
            bytes += item.capacity();
            // The bytes are not credited to the calling thread: other threads returned these items.
            drop(self.evict(None, item));
        };
        for cache in &self.thread_caches {
            while let Some(item) = T::share(cache).take_if(stale) {
                free(item);
            }
        }
        T::shared(&self.shared).sweep(stale, free);
        bytes
    }

    /// Begins a new epoch, and frees the items that waited for the whole former one.
    pub(super) fn tick(&self) {
        // Relaxed: see `tag`.
        let now = self.epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.sweep(|tag| tag.is_stale(now) && !bug!("never-trimmed"));
        // A sweep puts back an arena that is not stale after all, maybe after `close` has passed.
        if self.has_closed() {
            self.sweep(|_| true);
        }
    }

    /// Whether nothing waits and nothing is in use.
    ///
    /// A hot arena counts as waiting. It cannot be trimmed, but it can once a request has grown it.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.stats();
        [now.rented, now.buffers, now.pooled, now.pooled_buffers] == [0; 4]
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

    /// [`PoolStats::buffer_bytes`] alone.
    pub(super) fn buffer_bytes(&self) -> usize {
        let caches = self.thread_caches.iter().map(AsRef::as_ref);
        let out = caches.chain([&self.common]).fold(0_u64, |sum, cache| {
            // Relaxed: as in `PoolStats::sum`.
            sum.wrapping_add(cache.blocks.counters.out_bytes.load(Ordering::Relaxed))
        });
        (out as i64).max(0) as usize
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
