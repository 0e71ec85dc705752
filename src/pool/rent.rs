//! How arenas leave their pool. The first of these that has an arena of a wanted class:
//!
//! 1. the calling thread's hot arena,
//! 2. its thread cache,
//! 3. the shared cache, from where up to [`BATCH`] arenas move to the thread cache,
//! 4. another thread's cache,
//! 5. a new arena.

use super::{
    class::Wanted,
    local::{self, Local},
    shared_cache::BATCH,
    state::PoolState,
    tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::{IdleArena, PoolHint},
    sync::Arc,
};

/// Hits of a thread between two checks that the pool is trimmed, and that no other one of the thread
/// has closed. Each miss checks the first as well.
const TRIM_CHECK_EVERY: u64 = 256;

impl PoolState {
    /// Rents an arena of a wanted class.
    #[inline]
    pub(super) fn rent(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        let pool = Arc::as_ptr(self).addr();
        let rented = local::with_first(pool, |local| Some(self.rent_local(wanted, local)));
        match rented {
            Some(arena) => arena,
            None => self.rent_any(wanted),
        }
    }

    /// As [`rent`](Self::rent), on a thread whose first pool is another one.
    #[cold]
    #[inline(never)]
    fn rent_any(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        local::with_any(self, |local| self.rent_local(wanted, local))
            .unwrap_or_else(|| self.rent_cached(wanted, None))
    }

    #[inline]
    fn rent_local(self: &Arc<Self>, wanted: Wanted, local: &Local) -> IdleArena {
        match self.take_hot(wanted, local) {
            Some(arena) => arena,
            None => self.rent_cached(wanted, Some(&local.cache)),
        }
    }

    /// Takes the arena that was returned to the calling thread last.
    #[inline]
    fn take_hot(self: &Arc<Self>, wanted: Wanted, local: &Local) -> Option<IdleArena> {
        let mut hot = local.hot.take()?;
        let hint = hot.hint();
        if !wanted.includes(hint.class.into()) {
            local.hot.set(Some(hot));
            return None;
        }
        self.count_hit(&local.cache);
        self.budget.release(Some(&local.cache), hint.capacity);
        hot.mark_reused();
        Some(hot)
    }

    /// Takes an arena from the thread cache. A thread without a cache rents elsewhere.
    #[inline(never)]
    pub(super) fn rent_cached(
        self: &Arc<Self>,
        wanted: Wanted,
        cache: Option<&ThreadCache>,
    ) -> IdleArena {
        let suits = |tag: Tag| wanted.includes(tag.class());
        match cache.and_then(|cache| Some((cache, cache.take_if(suits)?))) {
            Some((cache, mut arena)) => {
                self.count_hit(cache);
                self.budget.release(Some(cache), arena.capacity());
                arena.mark_reused();
                arena
            }
            None => self.rent_elsewhere(wanted, cache),
        }
    }

    /// Counts an arena that a thread took from its own.
    #[inline]
    fn count_hit(self: &Arc<Self>, cache: &ThreadCache) {
        if cache.counters.count_hit() % TRIM_CHECK_EVERY == 0 {
            self.ensure_trimming_here();
            local::leave_closed();
        }
    }

    fn rent_elsewhere(self: &Arc<Self>, wanted: Wanted, cache: Option<&ThreadCache>) -> IdleArena {
        let counters = self.counters(cache);
        let found = self.take_shared(wanted, cache).or_else(|| {
            // Another thread has an arena that it does not need now: better than a new one.
            let mut others = self.thread_caches.iter();
            others.find_map(|other| other.take_if(|tag| wanted.includes(tag.class())))
        });
        // Trimming is ensured after counting: see `Job::needs_start`.
        match found {
            Some(mut arena) => {
                counters.add(&counters.hits, 1);
                self.budget.release(cache, arena.capacity());
                arena.mark_reused();
                self.ensure_trimming();
                arena
            }
            None => {
                counters.add(&counters.misses, 1);
                self.ensure_trimming_here();
                self.new_arena(wanted)
            }
        }
    }

    /// Takes an arena from the shared cache, and moves some more to the thread cache.
    fn take_shared(&self, wanted: Wanted, cache: Option<&ThreadCache>) -> Option<IdleArena> {
        let most = if cache.is_some() { BATCH as u32 } else { 1 };
        let mut batch = self.shared_cache.take(wanted, most).into_iter().flatten();
        let found = batch.next().map(|(arena, _)| arena);
        for (arena, tag) in batch {
            // The bytes stay reserved: the arena still waits.
            let refused = match cache {
                Some(cache) => cache.put(arena, tag),
                None => Some(arena),
            };
            if let Some(arena) = refused {
                self.put_shared(cache, arena, tag);
            }
        }
        found
    }

    fn new_arena(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        let mut arena = IdleArena::new(self.classes.size(wanted.class));
        arena.attach(Arc::clone(self));
        // An arena that is returned unused has no memory. It may be kept hot as it is.
        arena.set_hint(PoolHint {
            capacity: 0,
            class: wanted.class as u8,
            hot: self.settings.enabled,
        });
        arena
    }
}
