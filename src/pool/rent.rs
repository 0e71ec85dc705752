//! How arenas and blocks leave their pool. The first of these that has one of a wanted class:
//!
//! 1. what the calling thread got back last (its hot arena, or its hot block),
//! 2. its thread cache,
//! 3. the shared cache, from where up to [`BATCH`] items move to the thread cache,
//! 4. another thread's cache,
//! 5. a new one.

use super::{
    class::Wanted,
    kind::Kind,
    local::{self, Local},
    shared_cache::BATCH,
    state::PoolState,
    tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::{IdleArena, IdleBlock, PoolHint},
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
        let rented = local::with(pool, |local| {
            self.rent_with(wanted, Some(local), Some(&local.cache))
        });
        match rented {
            Some(arena) => arena,
            None => self.rent_any(wanted),
        }
    }

    /// As [`rent`](Self::rent), on a thread that has no part of the pool.
    #[cold]
    #[inline(never)]
    fn rent_any(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        local::with_any(self, |local| {
            self.rent_with(wanted, Some(local), Some(&local.cache))
        })
        .unwrap_or_else(|| self.rent_with(wanted, None, None))
    }

    #[inline]
    pub(super) fn rent_with(
        self: &Arc<Self>,
        wanted: Wanted,
        local: Option<&Local>,
        cache: Option<&ThreadCache>,
    ) -> IdleArena {
        let suits = |hint: PoolHint| wanted.includes(hint.class.into());
        if let Some(arena) = local.and_then(|local| self.take_hot(local, suits)) {
            return arena;
        }
        match self.take_cached(wanted, cache) {
            Some(arena) => arena,
            None => self.new_arena(wanted, cache),
        }
    }

    /// Takes a block of at least `bytes` bytes, waiting or new. `None` if there is no memory.
    #[inline]
    pub(super) fn block(
        self: &Arc<Self>,
        bytes: usize,
        local: Option<&Local>,
        cache: Option<&ThreadCache>,
    ) -> Option<IdleBlock> {
        let suits = |hint: PoolHint| self.block_classes.suits(hint, bytes);
        let hot = local.and_then(|local| self.take_hot::<IdleBlock>(local, suits));
        let block = match hot {
            Some(block) => block,
            None => {
                let Some(wanted) = self.block_classes.holding(bytes) else {
                    // The pool keeps none that large.
                    return self.new_block(bytes, 0, cache);
                };
                match self.take_cached(wanted, cache) {
                    Some(block) => block,
                    None => {
                        let size = self.block_classes.size(wanted.class);
                        return self.new_block(size, wanted.class, cache);
                    }
                }
            }
        };
        let counters = self.counters::<IdleBlock>(cache);
        counters.add(&counters.out_bytes, block.capacity() as u64);
        Some(block)
    }

    /// Takes what was returned to the calling thread last, if that suits.
    #[inline]
    fn take_hot<T: Kind>(
        self: &Arc<Self>,
        local: &Local,
        suits: impl FnOnce(PoolHint) -> bool,
    ) -> Option<T> {
        let mut hot = T::hot(&local.hot).take()?;
        let hint = hot.hint();
        if !suits(hint) {
            T::hot(&local.hot).set(Some(hot));
            return None;
        }
        self.count_hit::<T>(&local.cache);
        self.budget.release(Some(&local.cache), hint.capacity);
        hot.mark_reused();
        Some(hot)
    }

    /// Takes a waiting item that is not hot. A thread without a cache looks elsewhere.
    #[inline(never)]
    fn take_cached<T: Kind>(
        self: &Arc<Self>,
        wanted: Wanted,
        cache: Option<&ThreadCache>,
    ) -> Option<T> {
        let suits = |tag: Tag| wanted.includes(tag.class());
        match cache.and_then(|cache| Some((cache, T::share(cache).take_if(suits)?))) {
            Some((cache, mut item)) => {
                self.count_hit::<T>(cache);
                self.budget.release(Some(cache), item.capacity());
                item.mark_reused();
                Some(item)
            }
            None => self.take_elsewhere(wanted, cache),
        }
    }

    /// Counts an item that a thread took from its own.
    #[inline]
    fn count_hit<T: Kind>(self: &Arc<Self>, cache: &ThreadCache) {
        if T::share(cache).counters.count_hit() % TRIM_CHECK_EVERY == 0 {
            self.ensure_trimming_here();
            local::leave_closed();
        }
    }

    fn take_elsewhere<T: Kind>(
        self: &Arc<Self>,
        wanted: Wanted,
        cache: Option<&ThreadCache>,
    ) -> Option<T> {
        let mut found = self.take_shared::<T>(wanted, cache).or_else(|| {
            // Another thread has one that it does not need now: better than a new one.
            let mut others = self.thread_caches.iter();
            others.find_map(|other| T::share(other).take_if(|tag| wanted.includes(tag.class())))
        })?;
        let counters = self.counters::<T>(cache);
        counters.add(&counters.hits, 1);
        self.budget.release(cache, found.capacity());
        found.mark_reused();
        // After counting: see `Job::needs_start`.
        self.ensure_trimming();
        Some(found)
    }

    /// Takes an item from the shared cache, and moves some more to the thread cache.
    fn take_shared<T: Kind>(&self, wanted: Wanted, cache: Option<&ThreadCache>) -> Option<T> {
        let most = if cache.is_some() { BATCH as u32 } else { 1 };
        let mut batch = T::shared(&self.shared)
            .take(wanted, most)
            .into_iter()
            .flatten();
        let found = batch.next().map(|(item, _)| item);
        for (item, tag) in batch {
            // The bytes stay reserved: the item still waits.
            let refused = match cache {
                Some(cache) => T::share(cache).put(item, tag),
                None => Some(item),
            };
            if let Some(item) = refused {
                self.put_shared(cache, item, tag);
            }
        }
        found
    }

    fn new_arena(self: &Arc<Self>, wanted: Wanted, cache: Option<&ThreadCache>) -> IdleArena {
        let mut arena = IdleArena::new(self.classes.size(wanted.class));
        arena.attach(Arc::clone(self));
        // An arena that is returned unused has no memory. It may be kept hot as it is.
        arena.set_hint(PoolHint {
            capacity: 0,
            class: wanted.class as u8,
            hot: self.settings.enabled,
        });
        let counters = self.counters::<IdleArena>(cache);
        counters.add(&counters.misses, 1);
        // After counting: see `Job::needs_start`.
        self.ensure_trimming_here();
        arena
    }

    #[cold]
    fn new_block(
        self: &Arc<Self>,
        size: usize,
        class: usize,
        cache: Option<&ThreadCache>,
    ) -> Option<IdleBlock> {
        let mut block = IdleBlock::new(size)?;
        block.attach(Arc::clone(self));
        block.set_wiped(self.settings.wipe);
        block.set_hint(PoolHint {
            capacity: size,
            class: class as u8,
            hot: self.may_be_hot(size),
        });
        let counters = self.counters::<IdleBlock>(cache);
        counters.add(&counters.grown_bytes, size as u64);
        counters.add(&counters.out_bytes, size as u64);
        counters.add(&counters.misses, 1);
        // After counting: see `Job::needs_start`.
        self.ensure_trimming_here();
        Some(block)
    }
}
