//! How arenas and blocks come back to their pool. The first of these that may keep the item, and has
//! room:
//!
//! 1. the calling thread's hot one, which it replaces,
//! 2. its thread cache, from where up to [`BATCH`](super::shared_cache::BATCH) items move to the
//!    shared cache if it is full,
//! 3. the shared cache.
//!
//! Above the pool's limits an item is freed.

use super::{
    kind::Kind,
    local::{self, Local},
    shared_cache::Batch,
    state::PoolState,
    tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::{BlockPool, IdleArena, IdleBlock, PoolHint, Recycler, Retain},
    sync::{Arc, Ordering},
};

/// Returns before a thread keeps an item hot: under light load, one arena serves all threads.
const HOT_AFTER: u64 = 64;

/// Larger items wait where other threads can take and trim them.
const MAX_HOT: usize = 64 * 1024;

// `ArenaPool`, its `trim` and `PoolBuilder::trim_interval` say so.
const _: () = assert!(MAX_HOT == 64 << 10);

impl Recycler for PoolState {
    fn recycle(arena: IdleArena, pool: usize) {
        let mut arena = Some(arena);
        let kept = local::with(pool, |local| {
            local.pool.arena_came_back(arena.as_mut()?);
            local.pool.keep_hot(local, &mut arena)
        });
        if kept.flatten().is_none() {
            recycle_cold(arena, pool);
        }
    }

    fn recycle_owned(self: Arc<Self>, arena: IdleArena) {
        let mut arena = Some(arena);
        if let Some(arena) = &mut arena {
            self.arena_came_back(arena);
        }
        let refused = local::with_any(&self, |local| {
            if self.keep_hot(local, &mut arena).is_some() {
                return None;
            }
            self.return_cached(arena.take()?, Some(&local.cache))
        });
        drop(refused.flatten());
        drop(arena.and_then(|arena| self.return_cached(arena, None)));
    }

    fn grew(&self, bytes: usize) {
        let counters = self.counters::<IdleArena>(None);
        counters.add(&counters.grown_bytes, bytes as u64);
    }

    fn left_behind(&self, origin: u32) {
        self.origins.left_behind(origin, 1);
    }
}

impl BlockPool for PoolState {
    #[inline]
    fn take_block(bytes: usize, pool: usize) -> Option<IdleBlock> {
        local::with(pool, |local| {
            local.pool.block(bytes, Some(local), Some(&local.cache))
        })
        .flatten()
    }

    #[cold]
    fn take_block_owned(self: Arc<Self>, bytes: usize) -> Option<IdleBlock> {
        local::with_any(&self, |local| {
            self.block(bytes, Some(local), Some(&local.cache))
        })
        .unwrap_or_else(|| self.block(bytes, None, None))
    }

    fn recycle_block(block: IdleBlock, pool: usize) {
        let mut block = Some(block);
        let kept = local::with(pool, |local| {
            local.pool.block_came_back(block.as_mut()?);
            if local.pool.keep_hot(local, &mut block).is_some() {
                return Some(None);
            }
            let block = block.take()?;
            Some(local.pool.return_block(block, Some(&local.cache)))
        });
        match kept.flatten() {
            // Freed outside of the pool's own code: with the block, the pool may go.
            Some(refused) => drop(refused),
            None => {
                if let Some(block) = block {
                    block.recycle_owned();
                }
            }
        }
    }

    #[cold]
    fn recycle_block_owned(self: Arc<Self>, mut block: IdleBlock) {
        self.block_came_back(&mut block);
        let mut block = Some(block);
        let refused = local::with_any(&self, |local| {
            self.return_block(block.take()?, Some(&local.cache))
        });
        drop(refused.flatten());
        drop(block.and_then(|block| self.return_block(block, None)));
    }

    fn handed_out(&self, origin: u32, bytes: usize) {
        self.origins.handed_out(origin, bytes);
    }
}

/// Returns an arena that cannot be kept hot.
#[cold]
#[inline(never)]
fn recycle_cold(mut arena: Option<IdleArena>, pool: usize) {
    let refused = local::with(pool, |local| {
        let arena = arena.take()?;
        local.pool.return_cached(arena, Some(&local.cache))
    });
    // Freed outside of the pool's own code: with the arena, the pool may go.
    drop(refused.flatten());
    if let Some(arena) = arena {
        arena.recycle_owned();
    }
}

impl PoolState {
    /// Ends what was counted when the arena was left behind.
    #[inline]
    fn arena_came_back(&self, arena: &mut IdleArena) {
        let origin = arena.take_left_behind();
        if origin != 0 {
            self.origins.left_behind(origin, u64::MAX);
        }
    }

    /// Ends what was counted when the block was handed out.
    #[inline]
    fn block_came_back(&self, block: &mut IdleBlock) {
        let origin = block.take_origin();
        if origin != 0 && !bug!("unreleased-never-falls") {
            self.origins.came_back(origin, block.capacity());
        }
    }

    /// Keeps an item hot if it has not changed since it was rented. `item` is then `None`.
    #[inline]
    fn keep_hot<T: Kind>(&self, local: &Local, item: &mut Option<T>) -> Option<()> {
        let returned = item.as_mut()?;
        let hint = returned.hint();
        let credit = &local.cache.credit;
        let counters = &T::share(&local.cache).counters;
        // Relaxed: one writer.
        let left = credit.load(Ordering::Relaxed);
        let returns = counters.returned.load(Ordering::Relaxed);
        // At the same capacity it has the same single chunk, and the hint is still valid.
        if !hint.hot
            || hint.capacity != returned.capacity()
            || hint.capacity > left
            || returns < HOT_AFTER
            || self.seems_closed()
        {
            return None;
        }
        returned.keep_unchanged();
        credit.store(left - hint.capacity, Ordering::Relaxed);
        T::count_returned_bytes(counters, hint.capacity);
        counters.count_return(returns);
        if let Some(former) = T::hot(&local.hot).replace(item.take()) {
            self.cool_down(&local.cache, former);
        }
        Some(())
    }

    /// Moves a hot item to where other threads can take it.
    #[cold]
    #[inline(never)]
    fn cool_down<T: Kind>(&self, cache: &ThreadCache, item: T) {
        let tag = self.tag(item.hint().class.into());
        drop(self.park(Some(cache), item, tag));
    }

    /// Returns an arena to the caches. The result, if any, is to be freed.
    pub(super) fn return_cached(
        &self,
        mut arena: IdleArena,
        cache: Option<&ThreadCache>,
    ) -> Option<IdleArena> {
        let counters = self.counters::<IdleArena>(cache);
        let before = arena.capacity();
        let hint = arena.hint();
        // It has the one chunk with which it was kept before.
        let unchanged = before > 0 && hint.capacity == before && !self.settings.wipe;
        if unchanged {
            arena.retain_unchanged();
        } else {
            arena.retain(Retain {
                most: self.classes.most_kept(hint.class.into()),
                wipe: self.settings.wipe,
            });
        }
        let kept = arena.capacity();
        counters.add_return();
        // An arena without memory is not worth a slot.
        let keeps = kept > 0
            && self.settings.enabled
            && !self.seems_closed()
            && self.budget.reserve(cache, kept);
        if !keeps {
            counters.add(&counters.evicted_bytes, before as u64);
            counters.add(&counters.freed, 1);
            return Some(arena);
        }
        let class = if unchanged {
            hint.class.into()
        } else {
            counters.add(&counters.evicted_bytes, (before - kept) as u64);
            self.set_hint(&mut arena)
        };
        self.park(cache, arena, self.tag(class))
    }

    /// Updates the hint of an arena, and returns its class.
    #[cold]
    fn set_hint(&self, arena: &mut IdleArena) -> usize {
        let capacity = arena.capacity();
        let class = self.classes.of(capacity);
        arena.set_hint(PoolHint {
            capacity,
            class: class as u8,
            hot: self.may_be_hot(capacity),
        });
        class
    }

    /// Whether an item of `capacity` bytes may wait where only its thread can reach it.
    pub(super) fn may_be_hot(&self, capacity: usize) -> bool {
        capacity <= MAX_HOT && !self.settings.wipe && self.settings.enabled
    }

    /// Returns a block to the caches. The result, if any, is to be freed.
    pub(super) fn return_block(
        &self,
        mut block: IdleBlock,
        cache: Option<&ThreadCache>,
    ) -> Option<IdleBlock> {
        block.cover(self.settings.wipe);
        let capacity = block.capacity();
        let counters = self.counters::<IdleBlock>(cache);
        IdleBlock::count_returned_bytes(counters, capacity);
        counters.add_return();
        let class = self.block_classes.holding(capacity);
        let keeps = class.is_some()
            && self.settings.enabled
            && !self.seems_closed()
            && self.budget.reserve(cache, capacity);
        if !keeps {
            counters.add(&counters.evicted_bytes, capacity as u64);
            counters.add(&counters.freed, 1);
            return Some(block);
        }
        let tag = self.tag(block.hint().class.into());
        self.park(cache, block, tag)
    }

    /// Puts an item whose bytes are reserved where other threads can take it. The result, if any, is
    /// to be freed.
    fn park<T: Kind>(&self, cache: Option<&ThreadCache>, item: T, tag: Tag) -> Option<T> {
        let refused = match cache {
            Some(cache) => T::share(cache).put(item, tag).and_then(|item| {
                self.spill::<T>(cache);
                T::share(cache).put(item, tag)
            }),
            None => Some(item),
        };
        let refused = refused.and_then(|item| T::shared(&self.shared).put(item, tag));
        // The pool may have closed meanwhile, and its sweep may have passed this cache. A thread
        // with a cache may miss that here: it sweeps when it ends or leaves the pool. A thread
        // without one has only this occasion.
        if self.seems_closed() || (cache.is_none() && self.has_closed()) {
            self.trim();
        }
        refused.map(|item| self.evict(cache, item))
    }

    /// Moves some items of a thread cache to the shared cache.
    #[cold]
    #[inline(never)]
    fn spill<T: Kind>(&self, cache: &ThreadCache) {
        let mut batch: Batch<T> = std::array::from_fn(|_| T::share(cache).take_with_tag());
        T::shared(&self.shared).put_all(&mut batch);
        for (refused, _) in batch.into_iter().flatten() {
            drop(self.evict(Some(cache), refused));
        }
    }
}
