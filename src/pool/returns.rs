//! How arenas come back to their pool.

use std::iter;

use super::{
    local::{self, Mine},
    shared::Shared,
    shelf::Batch,
    slots::{Slots, Summary, Tag},
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

impl Shared {
    /// Keeps an arena that came back as it was before where only this thread can reach it. `arena` is
    /// emptied if so.
    #[inline]
    fn keep_hot(&self, mine: &Mine, arena: &mut Option<IdleArena>) -> Option<()> {
        let back = arena.as_mut()?;
        let hint = back.hint();
        let figures = &mine.slots.figures;
        let float = figures.float.load(Ordering::Relaxed);
        let returned = figures.returned.load(Ordering::Relaxed);
        // The same capacity: the same single chunk, and all that was asked then still holds. Relaxed: as
        // in `return_with`.
        if !hint.hot
            || hint.capacity != back.capacity()
            || hint.capacity > float
            || returned < HOT_AFTER
            || self.closed.load(Ordering::Relaxed)
        {
            return None;
        }
        back.retain_unchanged();
        figures
            .float
            .store(float - hint.capacity, Ordering::Relaxed);
        figures.count_return(returned);
        if let Some(former) = mine.hot.replace(arena.take()) {
            self.cool_down(&mine.slots, former);
        }
        Some(())
    }

    /// Moves an arena that was hot to where others can take it.
    #[cold]
    #[inline(never)]
    fn cool_down(&self, own: &Slots, arena: IdleArena) {
        let tag = Tag::new(
            arena.hint().class.into(),
            self.epoch.load(Ordering::Relaxed),
        );
        drop(self.park(Some(own), arena, tag));
    }

    #[inline]
    fn retain(&self) -> Retain {
        Retain {
            most: self.retention.max_arena_bytes,
            wipe: self.retention.wipe,
        }
    }

    /// Takes an arena back; returns it if it is to be freed.
    pub(super) fn return_with(
        &self,
        mut arena: IdleArena,
        own: Option<&Slots>,
    ) -> Option<IdleArena> {
        let figures = &own.unwrap_or(&self.common).figures;
        let before = arena.capacity();
        let note = arena.hint();
        // It has the one chunk that it was kept with before.
        let unchanged = before > 0 && note.capacity == before && !self.retention.wipe;
        if unchanged {
            arena.retain_unchanged();
        } else {
            arena.retain(self.retain());
        }
        let kept = arena.capacity();
        figures.add_return();
        // An arena without memory is not worth a place. Relaxed: see below.
        let keeps = kept > 0
            && self.retention.enabled
            && !self.closed.load(Ordering::Relaxed)
            && self.claims.claim(own, kept);
        if !keeps {
            figures.add(&figures.evicted_bytes, before as u64);
            figures.add(&figures.freed, 1);
            return Some(arena);
        }
        let class = if unchanged {
            note.class.into()
        } else {
            self.keep_changed(figures, &mut arena, before)
        };
        // Relaxed: an arena that came a moment too early is trimmed an interval early.
        let tag = Tag::new(class, self.epoch.load(Ordering::Relaxed));
        self.park(own, arena, tag)
    }

    /// Notes what is kept of an arena that had `before` bytes, and returns its class.
    #[cold]
    fn keep_changed(&self, figures: &Summary, arena: &mut IdleArena, before: usize) -> usize {
        let kept = arena.capacity();
        figures.add(&figures.evicted_bytes, (before - kept) as u64);
        let class = self.classes.of(kept);
        arena.set_hint(PoolHint {
            capacity: kept,
            class: class as u8,
            hot: kept <= MAX_HOT && !self.retention.wipe,
        });
        class
    }

    /// Puts an arena whose bytes are claimed where others can take it; returns it if it is to be freed.
    fn park(&self, own: Option<&Slots>, arena: IdleArena, tag: Tag) -> Option<IdleArena> {
        let refused = match own {
            Some(own) => own.put(arena, tag).and_then(|arena| {
                self.spill(own);
                own.put(arena, tag)
            }),
            None => Some(arena),
        };
        let refused = refused.and_then(|arena| self.shelf.put(arena, tag));
        // The pool may have closed in between, and passed this place already. A thread with slots may
        // miss one that closes in this very moment: then the arena waits until the thread ends or
        // leaves the pool. Without slots, nobody would come by again.
        if self.closed.load(Ordering::Relaxed) || (own.is_none() && self.has_closed()) {
            self.trim();
        }
        refused.map(|arena| self.evict(own, arena))
    }

    /// Moves some of a thread's arenas to the shelf.
    #[cold]
    #[inline(never)]
    fn spill(&self, own: &Slots) {
        let mut batch: Batch = std::array::from_fn(|_| own.take_with_tag());
        self.shelf.put_all(&mut batch);
        for (refused, _) in batch.into_iter().flatten() {
            drop(self.evict(Some(own), refused));
        }
    }

    /// A thread gives its slots back: its arenas go to the shelf, its float to all.
    pub(super) fn leave(&self, own: &Slots, hot: Option<IdleArena>) {
        let hot = hot.map(|hot| {
            let tag = Tag::new(hot.hint().class.into(), self.epoch.load(Ordering::Relaxed));
            (hot, tag)
        });
        for (arena, tag) in hot.into_iter().chain(iter::from_fn(|| own.take_with_tag())) {
            let refused = self.shelf.put(arena, tag);
            drop(refused.map(|arena| self.evict(Some(own), arena)));
        }
        // Relaxed: the float is this thread's, until `release` hands it to the next owner.
        self.claims.unclaim_float(own);
        own.release();
        if self.has_closed() {
            self.trim();
        }
    }
}

impl Recycler for Shared {
    fn recycle(arena: IdleArena) {
        let pool = arena.recycler_address();
        let mut arena = Some(arena);
        let kept = local::with_first(pool, |mine| mine.shared.keep_hot(mine, &mut arena));
        if kept.is_none() {
            recycle_cold(arena);
        }
    }

    fn recycle_owned(self: Arc<Self>, arena: IdleArena) {
        let mut arena = Some(arena);
        let refused = local::with_any(&self, |mine| {
            if self.keep_hot(mine, &mut arena).is_some() {
                return None;
            }
            self.return_with(arena.take()?, Some(&mine.slots))
        });
        drop(refused.flatten());
        drop(arena.and_then(|arena| self.return_with(arena, None)));
    }

    fn grew(&self, bytes: usize) {
        self.common
            .figures
            .add(&self.common.figures.grown_bytes, bytes as u64);
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
    let refused = local::with_first(pool, |mine| {
        let arena = arena.take()?;
        Some(mine.shared.return_with(arena, Some(&mine.slots)))
    });
    // Freed here, and not where the pool is at work: it may go, too.
    drop(refused.flatten());
    if let Some(arena) = arena {
        arena.recycle_owned();
    }
}
