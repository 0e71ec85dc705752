use std::fmt;

use super::{
    class::{Classes, Wanted},
    local,
    retention::Retention,
    shelf::Shelf,
    slots::{Slots, Tag, Writer},
    stats::PoolStats,
    trim::Timer,
};
use crate::{
    arena::{Home, IdleArena, Rewind},
    sync::{Arc, AtomicBool, AtomicUsize, Ordering},
};

/// Most bytes that one thread may keep a claim to while it has no arena for them.
const MAX_FLOAT: usize = 64 * 1024;

/// Arenas that move between a thread's slots and the shelf at once, so that a thread that only rents
/// and one that only returns meet once in as many requests.
const BATCH: u32 = 4;

/// What all handles of a pool, its threads and its arenas share.
///
/// # Invariants
///
/// 1. `granted` is the bytes of all waiting arenas and of all threads' floats, and never above
///    `max_total_bytes`: who keeps an arena has claimed its bytes before.
/// 2. An arena holds a reference to its pool for as long as it exists, whether it waits or is out.
///    The circle is broken when the last handle of the pool closes it.
pub(super) struct Shared {
    pub(super) retention: Retention,
    classes: Classes,
    /// Claimed by threads, one each.
    slots: Box<[Slots]>,
    /// For threads that have none; keeps no arenas.
    common: Slots,
    shelf: Shelf,
    granted: AtomicUsize,
    /// Counted up by the timer. See [`Tag::is_stale`].
    epoch: AtomicUsize,
    pub(super) closed: AtomicBool,
    pub(super) timer: Timer,
}

impl Shared {
    pub(super) fn new(retention: Retention) -> Self {
        let threads = if cfg!(tower_memory_loom) {
            2
        } else {
            std::thread::available_parallelism().map_or(1, usize::from) * 4
        };
        let most = if cfg!(tower_memory_loom) { 2 } else { 32 };
        Self {
            classes: Classes::new(retention.initial_bytes, retention.max_arena_bytes),
            slots: std::iter::repeat_with(|| Slots::new(Writer::One))
                .take(threads.max(most))
                .collect(),
            common: Slots::new(Writer::Many),
            shelf: Shelf::new(),
            granted: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            timer: Timer::new(),
            retention,
        }
    }

    pub(super) fn slots(&self) -> &[Slots] {
        &self.slots
    }

    pub(super) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// An arena that will do.
    #[inline]
    pub(super) fn rent(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        local::with(self, |this, own| {
            this.rent_with(wanted, own.map(|(_, own)| own))
        })
    }

    #[inline]
    pub(super) fn rent_with(self: &Arc<Self>, wanted: Wanted, own: Option<&Slots>) -> IdleArena {
        let figures = &own.unwrap_or(&self.common).figures;
        let Some(mut arena) = own.and_then(|own| own.take(wanted)) else {
            return self.rent_elsewhere(wanted, own);
        };
        let hits = figures.hits.load(Ordering::Relaxed);
        figures.add(&figures.hits, 1);
        if hits % 64 == 0 {
            self.timer.ensure(self);
        }
        self.went_out(own, &mut arena);
        arena
    }

    /// From the shelf, or a new one.
    #[cold]
    #[inline(never)]
    fn rent_elsewhere(self: &Arc<Self>, wanted: Wanted, own: Option<&Slots>) -> IdleArena {
        let figures = &own.unwrap_or(&self.common).figures;
        let mut found = None;
        // A thread without slots takes one at a time.
        let most = if own.is_some() { BATCH } else { 1 };
        self.shelf.take(wanted, most, |arena, tag| {
            if found.is_none() {
                found = Some(arena);
                return;
            }
            // Its bytes stay claimed: it waits here instead of there.
            let refused = match own {
                Some(own) => own.put(arena, tag),
                None => Some(arena),
            };
            let refused = refused.and_then(|arena| self.shelf.put(arena, tag));
            drop(refused.map(|arena| self.evict(own, arena)));
        });
        let arena = match found {
            Some(mut arena) => {
                figures.add(&figures.hits, 1);
                self.went_out(own, &mut arena);
                arena
            }
            None => {
                figures.add(&figures.misses, 1);
                let mut arena = IdleArena::new(self.classes.size(wanted.class));
                arena.settle(self.as_home());
                arena
            }
        };
        // After the figures: a timer that is about to end looks at them.
        self.timer.ensure(self);
        arena
    }

    fn as_home(self: &Arc<Self>) -> Arc<dyn Home> {
        Arc::<Self>::clone(self)
    }

    /// Accounts for an arena that waited and is used again.
    #[inline]
    fn went_out(&self, own: Option<&Slots>, arena: &mut IdleArena) {
        let figures = &own.unwrap_or(&self.common).figures;
        let bytes = arena.capacity();
        figures.add(&figures.out_bytes, bytes as u64);
        self.unclaim(own, bytes);
        arena.reused();
    }

    /// Claims the right to keep `bytes` more.
    #[inline]
    fn claim(&self, own: Option<&Slots>, bytes: usize) -> bool {
        let float = own.map(|own| &own.figures.float);
        // Relaxed: one writer.
        let left = float.map_or(0, |float| float.load(Ordering::Relaxed));
        let rest = match bytes.checked_sub(left) {
            Some(rest) if rest > 0 => rest,
            _ => {
                if let Some(float) = float {
                    float.store(left - bytes, Ordering::Relaxed);
                }
                return true;
            }
        };
        let limit = self.retention.max_total_bytes;
        // Relaxed: a sum, which orders nothing.
        let granted = self
            .granted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |granted| {
                granted
                    .checked_add(rest)
                    .filter(|&granted| granted <= limit)
            })
            .is_ok();
        if let (true, Some(float)) = (granted, float) {
            float.store(0, Ordering::Relaxed);
        }
        granted
    }

    /// Gives a claim to `bytes` back, to the thread or to all.
    #[inline]
    fn unclaim(&self, own: Option<&Slots>, bytes: usize) {
        let Some(float) = own.map(|own| &own.figures.float) else {
            self.granted.fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let left = float.load(Ordering::Relaxed) + bytes;
        if left <= MAX_FLOAT.min(self.retention.max_total_bytes / 16) {
            float.store(left, Ordering::Relaxed);
        } else {
            float.store(0, Ordering::Relaxed);
            self.granted.fetch_sub(left, Ordering::Relaxed);
        }
    }

    /// Accounts for an arena that waited and is freed.
    fn evict(&self, own: Option<&Slots>, arena: IdleArena) -> IdleArena {
        let figures = &own.unwrap_or(&self.common).figures;
        figures.add(&figures.evicted_bytes, arena.capacity() as u64);
        self.unclaim(own, arena.capacity());
        arena
    }

    /// Takes an arena back; returns it if it is to be freed. `home` goes with it.
    #[inline]
    pub(super) fn return_with(
        &self,
        home: Arc<dyn Home>,
        mut arena: IdleArena,
        own: Option<&Slots>,
    ) -> Option<IdleArena> {
        let figures = &own.unwrap_or(&self.common).figures;
        let before = arena.capacity();
        arena.rewind(Rewind {
            keep: self.retention.max_arena_bytes,
            wipe: self.retention.wipe,
        });
        let kept = arena.capacity();
        figures.add(&figures.out_bytes, (before as u64).wrapping_neg());
        figures.add(&figures.returned, 1);
        // An arena without memory is not worth a place. Relaxed: see below.
        let keeps = kept > 0
            && self.retention.enabled
            && !self.closed.load(Ordering::Relaxed)
            && self.claim(own, kept);
        if !keeps {
            figures.add(&figures.evicted_bytes, before as u64);
            return Some(arena);
        }
        if before > kept {
            figures.add(&figures.evicted_bytes, (before - kept) as u64);
        }
        // Relaxed: an arena that came a moment too early is trimmed an interval early.
        let tag = Tag::new(self.classes.of(kept), self.epoch.load(Ordering::Relaxed));
        arena.settle(home);
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
        for _ in 0..BATCH {
            let Some((arena, tag)) = own.take_with_tag() else {
                return;
            };
            let refused = self.shelf.put(arena, tag);
            drop(refused.map(|arena| self.evict(Some(own), arena)));
        }
    }

    /// A thread gives its slots back: its arenas go to the shelf, its float to all.
    pub(super) fn leave(&self, own: &Slots) {
        while let Some((arena, tag)) = own.take_with_tag() {
            let refused = self.shelf.put(arena, tag);
            drop(refused.map(|arena| self.evict(Some(own), arena)));
        }
        let float = own.figures.float.swap(0, Ordering::Relaxed);
        self.granted.fetch_sub(float, Ordering::Relaxed);
        own.release();
        if self.has_closed() {
            self.trim();
        }
    }

    /// Whether the pool has closed, in one order with its closing: if not, [`close`](Self::close)
    /// finds the arenas that the caller has put somewhere before.
    fn has_closed(&self) -> bool {
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
        for slots in &self.slots {
            while let Some(arena) = slots.take_stale(stale) {
                free(arena);
            }
        }
        self.shelf.sweep(stale, free);
        bytes
    }

    /// Frees all waiting arenas, and returns how many bytes that were.
    pub(super) fn trim(&self) -> usize {
        self.sweep(|_| true)
    }

    /// Begins a new epoch, and frees the arenas that waited for all of the former one.
    pub(super) fn tick(&self) {
        let now = self.epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.sweep(|tag| tag.is_stale(now));
        // A sweep puts back what turns out to be wanted, perhaps where a closing pool has passed.
        if self.has_closed() {
            self.trim();
        }
    }

    /// Whether nothing waits and nothing is out.
    pub(super) fn is_idle(&self) -> bool {
        let stats = self.stats();
        stats.pooled == 0 && stats.rented == 0
    }

    /// The last handle is gone.
    pub(super) fn close(&self) {
        // See `has_closed`.
        self.closed.swap(true, Ordering::AcqRel);
        self.timer.stop();
        self.trim();
    }

    pub(super) fn stats(&self) -> PoolStats {
        let all = || self.slots.iter().chain([&self.common]);
        let sum = |figure: fn(&Slots) -> u64| {
            // Relaxed: each part is true at some moment.
            all().fold(0_u64, |sum, slots| sum.wrapping_add(figure(slots)))
        };
        // Returns before rents, so that an arena never comes back before it went out.
        let returned = sum(|slots| slots.figures.returned.load(Ordering::Acquire));
        let out_bytes = sum(|slots| slots.figures.out_bytes.load(Ordering::Relaxed));
        let hits = sum(|slots| slots.figures.hits.load(Ordering::Relaxed));
        let misses = sum(|slots| slots.figures.misses.load(Ordering::Relaxed));
        let float = sum(|slots| slots.figures.float.load(Ordering::Relaxed) as u64);
        let waiting: usize = self.slots.iter().map(Slots::waiting).sum();
        let granted = self.granted.load(Ordering::Relaxed);
        PoolStats {
            pooled: waiting + self.shelf.waiting(),
            pooled_bytes: granted.saturating_sub(float as usize),
            rented: (hits + misses).saturating_sub(returned) as usize,
            // While somebody returns what another one rented, the sum may be below zero.
            rented_bytes: usize::try_from(out_bytes as i64).unwrap_or(0),
            evicted_bytes: sum(|slots| slots.figures.evicted_bytes.load(Ordering::Relaxed)),
            hits,
            misses,
        }
    }
}

impl Home for Shared {
    fn take_back(self: Arc<Self>, arena: IdleArena) {
        let refused = local::with(self, |this, own| match own {
            // Kept alive by the thread while the arena takes its own reference along.
            Some((shared, own)) => shared.return_with(this, arena, Some(own)),
            None => Arc::clone(&this).return_with(this, arena, None),
        });
        // Here, since that may free the pool.
        drop(refused);
    }

    fn grew(&self, bytes: usize) {
        self.common
            .figures
            .add(&self.common.figures.out_bytes, bytes as u64);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("retention", &self.retention)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
