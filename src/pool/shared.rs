use std::{fmt, iter};

use super::{
    class::{Classes, Wanted},
    local::{self, Mine},
    retention::Retention,
    shelf::{BATCH, Batch, Shelf},
    slots::{Figures, Slots, Tag, Writer},
    stats::PoolStats,
    trim::Timer,
};
use crate::{
    arena::{Home, IdleArena, Note, Retain},
    sync::{Arc, AtomicBool, AtomicUsize, Ordering, fence},
};

/// Most bytes that one thread may keep a claim to while it has no arena for them; all threads together
/// may do so for half of what the pool may keep.
const MAX_FLOAT: usize = 128 * 1024;

/// After this many hits a thread looks whether the pool's timer runs; at each miss it does so anyway.
const TIMER_EVERY: u64 = 256;

/// A thread keeps an arena for itself only after it took this many back: where there is little to do,
/// and any thread may do it, one arena should do for all.
const HOT_AFTER: u64 = 64;

/// Larger arenas wait where others can take and trim them.
const MAX_HOT: usize = 64 * 1024;

// `ArenaPool`, its `trim` and `PoolBuilder::trim_interval` say so.
const _: () = assert!(MAX_HOT == 64 << 10);

/// Something that changes often, away from what every thread reads.
#[repr(align(128))]
struct Apart<T>(T);

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
    slots: Box<[Arc<Slots>]>,
    /// For threads that have none; keeps no arenas.
    common: Slots,
    shelf: Shelf,
    granted: Apart<AtomicUsize>,
    max_float: usize,
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
        let slots = threads.max(most);
        Self {
            classes: Classes::new(retention.initial_bytes, retention.max_arena_bytes),
            slots: iter::repeat_with(|| Arc::new(Slots::new(Writer::One)))
                .take(slots)
                .collect(),
            common: Slots::new(Writer::Many),
            shelf: Shelf::new(),
            granted: Apart(AtomicUsize::new(0)),
            max_float: MAX_FLOAT.min(retention.max_total_bytes / (2 * slots)),
            epoch: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            timer: Timer::new(),
            retention,
        }
    }

    pub(super) fn slots(&self) -> &[Arc<Slots>] {
        &self.slots
    }

    pub(super) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// An arena that will do.
    #[inline]
    pub(super) fn rent(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        let pool = Arc::as_ptr(self).addr();
        let rented = local::with_first(pool, |mine| Some(self.rent_mine(wanted, mine)));
        match rented {
            Some(arena) => arena,
            None => self.rent_cold(wanted),
        }
    }

    #[inline]
    fn rent_mine(self: &Arc<Self>, wanted: Wanted, mine: &Mine) -> IdleArena {
        match self.rent_hot(wanted, mine) {
            Some(arena) => arena,
            None => self.rent_with(wanted, Some(&mine.slots)),
        }
    }

    /// Takes the arena that came back to the calling thread last.
    #[inline]
    fn rent_hot(self: &Arc<Self>, wanted: Wanted, mine: &Mine) -> Option<IdleArena> {
        let mut hot = mine.hot.take()?;
        let note = hot.note();
        if !wanted.includes(note.class.into()) {
            mine.hot.set(Some(hot));
            return None;
        }
        let figures = &mine.slots.figures;
        if figures.count_hit() % TIMER_EVERY == 0 {
            self.timer.ensure(self);
        }
        self.unclaim(Some(&mine.slots), note.capacity);
        hot.reused();
        Some(hot)
    }

    #[cold]
    #[inline(never)]
    fn rent_cold(self: &Arc<Self>, wanted: Wanted) -> IdleArena {
        local::with_any(self, |mine| self.rent_mine(wanted, mine))
            .unwrap_or_else(|| self.rent_with(wanted, None))
    }

    #[inline(never)]
    pub(super) fn rent_with(self: &Arc<Self>, wanted: Wanted, own: Option<&Slots>) -> IdleArena {
        match own.and_then(|own| Some((own, own.take(wanted)?))) {
            Some((own, mut arena)) => {
                if own.figures.count_hit() % TIMER_EVERY == 0 {
                    self.timer.ensure(self);
                }
                self.went_out(Some(own), &mut arena);
                arena
            }
            None => self.rent_elsewhere(wanted, own),
        }
    }

    /// From the shelf, from another thread, or a new one.
    fn rent_elsewhere(self: &Arc<Self>, wanted: Wanted, own: Option<&Slots>) -> IdleArena {
        let figures = &own.unwrap_or(&self.common).figures;
        // A thread without slots takes one at a time.
        let most = if own.is_some() { BATCH as u32 } else { 1 };
        let mut batch = self.shelf.take(wanted, most).into_iter().flatten();
        let found = batch.next().map(|(arena, _)| arena);
        for (arena, tag) in batch {
            // Its bytes stay claimed: it waits here instead of there.
            let refused = match own {
                Some(own) => own.put(arena, tag),
                None => Some(arena),
            };
            let refused = refused.and_then(|arena| self.shelf.put(arena, tag));
            drop(refused.map(|arena| self.evict(own, arena)));
        }
        // Rather one that another thread does not need right now than a new one.
        let suits = |tag: Tag| wanted.includes(tag.class());
        let found = found.or_else(|| self.slots.iter().find_map(|other| other.take_if(suits)));
        let arena = match found {
            Some(mut arena) => {
                figures.add(&figures.hits, 1);
                self.went_out(own, &mut arena);
                arena
            }
            None => {
                figures.add(&figures.misses, 1);
                let mut arena = IdleArena::new(self.classes.size(wanted.class));
                arena.settle(Arc::clone(self));
                // If nobody uses it, it may wait as it is for who rents next.
                arena.set_note(Note {
                    capacity: 0,
                    hot: if self.retention.enabled {
                        0
                    } else {
                        Note::NOT_HOT
                    },
                    class: wanted.class as u8,
                });
                arena
            }
        };
        // Between the figures and the look at the timer: one that is about to end says so and then
        // looks at the figures, with a fence in between as well, so at least one sees the other.
        fence(Ordering::SeqCst);
        self.timer.ensure(self);
        arena
    }

    /// Accounts for an arena that waited and is used again.
    #[inline]
    fn went_out(&self, own: Option<&Slots>, arena: &mut IdleArena) {
        self.unclaim(own, arena.capacity());
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
        // A thread that gets back more than it takes comes by once in a few arenas. Half of what it may
        // have, here and in `unclaim`, so that one that gives and takes in turn need not.
        let spare = own.map_or(0, |_| self.max_float / 2);
        let spare = [spare, 0]
            .into_iter()
            .find(|spare| self.grant(rest + spare));
        if let (Some(spare), Some(float)) = (spare, float) {
            float.store(spare, Ordering::Relaxed);
        }
        spare.is_some()
    }

    /// Adds `bytes` to what is granted, if that does not exceed the limit.
    fn grant(&self, bytes: usize) -> bool {
        let limit = self.retention.max_total_bytes;
        // Relaxed: a sum, which orders nothing.
        self.granted
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |granted| {
                granted
                    .checked_add(bytes)
                    .filter(|&granted| granted <= limit)
            })
            .is_ok()
    }

    /// Gives a claim to `bytes` back, to the thread or to all.
    #[inline]
    fn unclaim(&self, own: Option<&Slots>, bytes: usize) {
        // Relaxed: as in `claim`.
        let Some(float) = own.map(|own| &own.figures.float) else {
            self.granted.0.fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let left = float.load(Ordering::Relaxed) + bytes;
        if left <= self.max_float {
            float.store(left, Ordering::Relaxed);
        } else {
            self.unclaim_all(float, left);
        }
    }

    #[cold]
    #[inline(never)]
    fn unclaim_all(&self, float: &AtomicUsize, left: usize) {
        let kept = self.max_float / 2;
        float.store(kept, Ordering::Relaxed);
        self.granted.0.fetch_sub(left - kept, Ordering::Relaxed);
    }

    /// Accounts for an arena that waited and is freed.
    fn evict(&self, own: Option<&Slots>, arena: IdleArena) -> IdleArena {
        let figures = &own.unwrap_or(&self.common).figures;
        figures.add(&figures.evicted_bytes, arena.capacity() as u64);
        figures.add(&figures.freed, 1);
        self.unclaim(own, arena.capacity());
        arena
    }

    /// Keeps an arena that came back as it was before where only this thread can reach it. `arena` is
    /// emptied if so.
    #[inline]
    fn keep_hot(&self, mine: &Mine, arena: &mut Option<IdleArena>) -> Option<()> {
        let back = arena.as_mut()?;
        let hot = back.note().hot;
        let figures = &mine.slots.figures;
        let float = figures.float.load(Ordering::Relaxed);
        let returned = figures.returned.load(Ordering::Relaxed);
        // The same capacity: the same single chunk, and all that was asked then still holds. Relaxed: as
        // in `return_with`.
        if hot != back.capacity()
            || hot > float
            || returned < HOT_AFTER
            || self.closed.load(Ordering::Relaxed)
        {
            return None;
        }
        back.retain_unchanged();
        figures.float.store(float - hot, Ordering::Relaxed);
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
            arena.note().class.into(),
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
        let note = arena.note();
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
            && self.claim(own, kept);
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
    fn keep_changed(&self, figures: &Figures, arena: &mut IdleArena, before: usize) -> usize {
        let kept = arena.capacity();
        figures.add(&figures.evicted_bytes, (before - kept) as u64);
        let class = self.classes.of(kept);
        arena.set_note(Note {
            capacity: kept,
            hot: if kept <= MAX_HOT && !self.retention.wipe {
                kept
            } else {
                Note::NOT_HOT
            },
            class: class as u8,
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
            let tag = Tag::new(hot.note().class.into(), self.epoch.load(Ordering::Relaxed));
            (hot, tag)
        });
        for (arena, tag) in hot.into_iter().chain(iter::from_fn(|| own.take_with_tag())) {
            let refused = self.shelf.put(arena, tag);
            drop(refused.map(|arena| self.evict(Some(own), arena)));
        }
        // Relaxed: the float is this thread's, until `release` hands it to the next owner.
        let float = own.figures.float.swap(0, Ordering::Relaxed);
        self.granted.0.fetch_sub(float, Ordering::Relaxed);
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
            while let Some(arena) = slots.take_if(stale) {
                free(arena);
            }
        }
        self.shelf.sweep(stale, free);
        bytes
    }

    /// Frees all waiting arenas that the calling thread can reach, and returns how many bytes that
    /// were.
    pub(super) fn trim(&self) -> usize {
        let pool = std::ptr::from_ref(self).addr();
        let hot = local::with(pool, |mine| mine.hot.take()).flatten();
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
        self.timer.stop();
        self.trim();
    }

    pub(super) fn stats(&self) -> PoolStats {
        let all = || self.slots.iter().map(AsRef::as_ref).chain([&self.common]);
        let sum = |figure: fn(&Slots) -> u64| {
            // Relaxed: each part is true at some moment.
            all().fold(0_u64, |sum, slots| sum.wrapping_add(figure(slots)))
        };
        // Returns before rents, so that an arena never comes back before it went out. Acquire: pairs with
        // the release in `Figures::count_return`. What is not ordered makes differences stop at zero.
        let returned = sum(|slots| slots.figures.returned.load(Ordering::Acquire));
        let evicted_bytes = sum(|slots| slots.figures.evicted_bytes.load(Ordering::Relaxed));
        let grown_bytes = sum(|slots| slots.figures.grown_bytes.load(Ordering::Relaxed));
        let hits = sum(|slots| slots.figures.hits.load(Ordering::Relaxed));
        let misses = sum(|slots| slots.figures.misses.load(Ordering::Relaxed));
        let float = sum(|slots| slots.figures.float.load(Ordering::Relaxed) as u64);
        let freed = sum(|slots| slots.figures.freed.load(Ordering::Relaxed));
        let granted = self.granted.0.load(Ordering::Relaxed);
        let pooled_bytes = granted.saturating_sub(float as usize);
        // Arenas hold what they took from the system and did not give back.
        let allocated_bytes = grown_bytes.saturating_sub(evicted_bytes) as usize;
        PoolStats {
            // What came back and was neither freed nor taken since.
            pooled: returned.saturating_sub(freed + hits) as usize,
            pooled_bytes,
            rented: (hits + misses).saturating_sub(returned) as usize,
            rented_bytes: allocated_bytes.saturating_sub(pooled_bytes),
            evicted_bytes,
            hits,
            misses,
        }
    }
}

impl Home for Shared {
    fn take_back(arena: IdleArena) {
        let pool = arena.home_address();
        let mut arena = Some(arena);
        let kept = local::with_first(pool, |mine| mine.shared.keep_hot(mine, &mut arena));
        if kept.is_none() {
            take_back_cold(arena);
        }
    }

    fn receive(self: Arc<Self>, arena: IdleArena) {
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
fn take_back_cold(arena: Option<IdleArena>) {
    let Some(arena) = arena else {
        return;
    };
    let pool = arena.home_address();
    let mut arena = Some(arena);
    let refused = local::with_first(pool, |mine| {
        let arena = arena.take()?;
        Some(mine.shared.return_with(arena, Some(&mine.slots)))
    });
    // Freed here, and not where the pool is at work: it may go, too.
    drop(refused.flatten());
    if let Some(arena) = arena {
        arena.go_home();
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
