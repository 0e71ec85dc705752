//! How arenas come back to their pool.

use std::iter;

use super::{
    local::{self, Local},
    shared_cache::Batch,
    state::PoolState,
    tag::Tag,
    thread_cache::{Counters, ThreadCache},
};
use crate::{
    arena::{IdleArena, PoolHint, Recycler, Retain},
    sync::{Arc, Ordering},
};

/// A thread keeps an arena for itself only after it took this many back: where there is little to do,
/// and any thread may do it, one arena should do for all.
const HOT_AFTER: u64 = 64;

/// Larger arenas wait where others can take and trim them.
const MAX_HOT: usize = 64 * 1024;

// `ArenaPool`, its `trim` and `PoolBuilder::trim_interval` say so.
const _: () = assert!(MAX_HOT == 64 << 10);

impl PoolState {
    /// Keeps an arena that came back as it was before where only this thread can reach it. `arena` is
    /// emptied if so.
    #[inline]
    fn keep_hot(&self, local: &Local, arena: &mut Option<IdleArena>) -> Option<()> {
        let back = arena.as_mut()?;
        let hint = back.hint();
        let counters = &local.cache.counters;
        let credit = local.cache.credit.load(Ordering::Relaxed);
        let returned = counters.returned.load(Ordering::Relaxed);
        // The same capacity: the same single chunk, and all that was asked then still holds. Relaxed: as
        // in `return_with`.
        if !hint.hot
            || hint.capacity != back.capacity()
            || hint.capacity > credit
            || returned < HOT_AFTER
            || self.closed.load(Ordering::Relaxed)
        {
            return None;
        }
        back.retain_unchanged();
        local
            .cache
            .credit
            .store(credit - hint.capacity, Ordering::Relaxed);
        counters.count_return(returned);
        if let Some(former) = local.hot.replace(arena.take()) {
            self.cool_down(&local.cache, former);
        }
        Some(())
    }

    /// Moves an arena that was hot to where others can take it.
    #[cold]
    #[inline(never)]
    fn cool_down(&self, cache: &ThreadCache, arena: IdleArena) {
        let tag = Tag::new(
            arena.hint().class.into(),
            self.epoch.load(Ordering::Relaxed),
        );
        drop(self.park(Some(cache), arena, tag));
    }

    #[inline]
    fn retain(&self) -> Retain {
        Retain {
            most: self.settings.max_arena_bytes,
            wipe: self.settings.wipe,
        }
    }

    /// Takes an arena back; returns it if it is to be freed.
    pub(super) fn return_with(
        &self,
        mut arena: IdleArena,
        cache: Option<&ThreadCache>,
    ) -> Option<IdleArena> {
        let counters = &cache.unwrap_or(&self.common).counters;
        let before = arena.capacity();
        let note = arena.hint();
        // It has the one chunk that it was kept with before.
        let unchanged = before > 0 && note.capacity == before && !self.settings.wipe;
        if unchanged {
            arena.retain_unchanged();
        } else {
            arena.retain(self.retain());
        }
        let kept = arena.capacity();
        counters.add_return();
        // An arena without memory is not worth a place. Relaxed: see below.
        let keeps = kept > 0
            && self.settings.enabled
            && !self.closed.load(Ordering::Relaxed)
            && self.budget.reserve(cache, kept);
        if !keeps {
            counters.add(&counters.evicted_bytes, before as u64);
            counters.add(&counters.freed, 1);
            return Some(arena);
        }
        let class = if unchanged {
            note.class.into()
        } else {
            self.keep_changed(counters, &mut arena, before)
        };
        // Relaxed: an arena that came a moment too early is trimmed an interval early.
        let tag = Tag::new(class, self.epoch.load(Ordering::Relaxed));
        self.park(cache, arena, tag)
    }

    /// Notes what is kept of an arena that had `before` bytes, and returns its class.
    #[cold]
    fn keep_changed(&self, counters: &Counters, arena: &mut IdleArena, before: usize) -> usize {
        let kept = arena.capacity();
        counters.add(&counters.evicted_bytes, (before - kept) as u64);
        let class = self.classes.of(kept);
        arena.set_hint(PoolHint {
            capacity: kept,
            class: class as u8,
            hot: kept <= MAX_HOT && !self.settings.wipe,
        });
        class
    }

    /// Puts an arena whose bytes are claimed where others can take it; returns it if it is to be freed.
    fn park(&self, cache: Option<&ThreadCache>, arena: IdleArena, tag: Tag) -> Option<IdleArena> {
        let refused = match cache {
            Some(cache) => cache.put(arena, tag).and_then(|arena| {
                self.spill(cache);
                cache.put(arena, tag)
            }),
            None => Some(arena),
        };
        let refused = refused.and_then(|arena| self.shared_cache.put(arena, tag));
        // The pool may have closed in between, and passed this place already. A thread with slots may
        // miss one that closes in this very moment: then the arena waits until the thread ends or
        // leaves the pool. Without slots, nobody would come by again.
        if self.closed.load(Ordering::Relaxed) || (cache.is_none() && self.has_closed()) {
            self.trim();
        }
        refused.map(|arena| self.evict(cache, arena))
    }

    /// Moves some of a thread's arenas to the shelf.
    #[cold]
    #[inline(never)]
    fn spill(&self, cache: &ThreadCache) {
        let mut batch: Batch = std::array::from_fn(|_| cache.take_with_tag());
        self.shared_cache.put_all(&mut batch);
        for (refused, _) in batch.into_iter().flatten() {
            drop(self.evict(Some(cache), refused));
        }
    }

    /// A thread gives its slots back: its arenas go to the shelf, its float to all.
    pub(super) fn leave(&self, cache: &ThreadCache, hot: Option<IdleArena>) {
        let hot = hot.map(|hot| {
            let tag = Tag::new(hot.hint().class.into(), self.epoch.load(Ordering::Relaxed));
            (hot, tag)
        });
        for (arena, tag) in hot
            .into_iter()
            .chain(iter::from_fn(|| cache.take_with_tag()))
        {
            let refused = self.shared_cache.put(arena, tag);
            drop(refused.map(|arena| self.evict(Some(cache), arena)));
        }
        // Relaxed: the float is this thread's, until `release` hands it to the next owner.
        self.budget.release_credit(cache);
        cache.disown();
        if self.has_closed() {
            self.trim();
        }
    }
}

impl Recycler for PoolState {
    fn recycle(arena: IdleArena) {
        let pool = arena.recycler_address();
        let mut arena = Some(arena);
        let kept = local::with_first(pool, |local| local.pool.keep_hot(local, &mut arena));
        if kept.is_none() {
            recycle_cold(arena);
        }
    }

    fn recycle_owned(self: Arc<Self>, arena: IdleArena) {
        let mut arena = Some(arena);
        let refused = local::with_any(&self, |local| {
            if self.keep_hot(local, &mut arena).is_some() {
                return None;
            }
            self.return_with(arena.take()?, Some(&local.cache))
        });
        drop(refused.flatten());
        drop(arena.and_then(|arena| self.return_with(arena, None)));
    }

    fn grew(&self, bytes: usize) {
        self.common
            .counters
            .add(&self.common.counters.grown_bytes, bytes as u64);
    }
}

/// Takes an arena back that cannot be kept hot.
#[cold]
#[inline(never)]
fn recycle_cold(arena: Option<IdleArena>) {
    let Some(arena) = arena else {
        return;
    };
    let pool = arena.recycler_address();
    let mut arena = Some(arena);
    let refused = local::with_first(pool, |local| {
        let arena = arena.take()?;
        Some(local.pool.return_with(arena, Some(&local.cache)))
    });
    // Freed here, and not where the pool is at work: it may go, too.
    drop(refused.flatten());
    if let Some(arena) = arena {
        arena.recycle_owned();
    }
}
