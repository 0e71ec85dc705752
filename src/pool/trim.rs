//! What frees waiting arenas: the housekeeping, [`ArenaPool::trim`](super::ArenaPool::trim), and the
//! end of the pool.

use std::time::Instant;

use super::{kind::Kind, local, state::PoolState};
use crate::{
    arena::{IdleArena, IdleBlock},
    housekeeping::{self, Chore, Housekeeping, Job},
    sync::{Arc, Ordering},
};

impl Chore for PoolState {
    fn job(&self) -> &Job {
        &self.trimmer
    }

    fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    fn run(&self) {
        self.tick();
        if let Some(hook) = &self.on_trim {
            hook.after_trim(self.stats().evicted_bytes);
        }
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        if self.is_idle() {
            return None;
        }
        now.checked_add(self.settings.trim_interval?)
    }
}

impl PoolState {
    /// Starts trimming if it is not scheduled. That may allocate, so returning never does it.
    ///
    /// It goes on while an arena waits or is rented.
    #[inline]
    pub(super) fn ensure_trimming(self: &Arc<Self>) {
        if self.trimmer.needs_start() {
            self.start_trimming();
        }
    }

    /// As [`ensure_trimming`](Self::ensure_trimming), also in a forked child.
    #[cold]
    pub(super) fn ensure_trimming_here(self: &Arc<Self>) {
        if self.trimmer.needs_start_here() {
            self.start_trimming();
        }
    }

    #[cold]
    fn start_trimming(self: &Arc<Self>) {
        let settings = &self.settings;
        let interval = settings.trim_interval.filter(|_| settings.enabled);
        let at = interval.and_then(|interval| self.housekeeping.now().checked_add(interval));
        if let Some(at) = at {
            housekeeping::start(self, at);
        }
    }

    /// Frees all waiting arenas and blocks that the calling thread can reach, and returns their bytes.
    pub(super) fn trim(&self) -> usize {
        self.trim_hot::<IdleArena>() + self.trim_hot::<IdleBlock>() + self.sweep(|_| true)
    }

    fn trim_hot<T: Kind>(&self) -> usize {
        let pool = std::ptr::from_ref(self).addr();
        let hot = local::with(pool, |local| T::hot(&local.hot).take()).flatten();
        hot.map_or(0, |hot| self.evict(None, hot).capacity())
    }

    /// Closes the pool: trimming ends, and no arena is kept from now on.
    pub(super) fn close(&self) {
        // See `has_closed`.
        self.closed.swap(true, Ordering::AcqRel);
        self.trimmer.cancel(&self.housekeeping);
        self.trim();
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::time::Duration;

    use crate::{
        arena::Arena,
        housekeeping::ManualClock,
        pool::{ArenaPool, PoolBuilder},
        sync::{Arc, Mutex, lock},
    };

    const INTERVAL: Duration = Duration::from_secs(10);

    fn pool(clock: &ManualClock) -> PoolBuilder {
        ArenaPool::builder().trim_interval(INTERVAL).clock(clock)
    }

    fn used(pool: &ArenaPool) -> Arena {
        let arena = pool.rent();
        arena.alloc_str("something");
        arena
    }

    #[test]
    fn trimming_ends_when_no_arena_is_pooled_or_rented_and_starts_again() {
        let clock = ManualClock::new();
        let pool = pool(&clock).build().unwrap();
        assert_eq!(clock.scheduled(), 0, "not before it is needed");
        for _ in 0..3 {
            let arena = used(&pool);
            assert_eq!(clock.scheduled(), 1);
            clock.advance(5 * INTERVAL);
            assert_eq!(clock.scheduled(), 1, "the rented arena will be returned");
            drop(arena);
            clock.advance(4 * INTERVAL);
            assert_eq!((clock.scheduled(), pool.stats().pooled), (0, 0));
        }
    }

    #[test]
    fn the_hook_is_told_what_was_freed_once_it_is_much_and_may_panic() {
        let clock = ManualClock::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let told = Arc::clone(&told);
            move |bytes| {
                lock(&told).push(bytes);
                if lock(&told).len() == 1 {
                    std::panic::resume_unwind(Box::new("the hook panics"));
                }
            }
        };
        let pool = pool(&clock).max_total_bytes(4 << 20).on_trim(hook);
        let pool = pool.build().unwrap();
        let large = || {
            let arena = pool.rent_with_capacity(1 << 20);
            arena.alloc(1_u8);
            arena
        };
        drop([used(&pool), used(&pool)]);
        clock.advance(3 * INTERVAL);
        assert!(
            pool.stats().evicted_bytes > 0 && lock(&told).is_empty(),
            "little"
        );

        // Some are freed when they are returned, the others by the second tick from now.
        drop((0..8).map(|_| large()).collect::<Vec<_>>());
        let on_return = pool.stats().evicted_bytes;
        assert!(on_return >= 4 << 20 && pool.stats().pooled > 0);
        clock.advance(INTERVAL);
        assert_eq!(*lock(&told), [on_return]);
        clock.advance(10 * INTERVAL);
        let all = pool.stats().evicted_bytes;
        assert_eq!(
            *lock(&told),
            [on_return, all - on_return],
            "trimming went on"
        );
    }

    #[test]
    fn trimming_ends_with_the_pool() {
        let clock = ManualClock::new();
        let kept = pool(&clock).build().unwrap();
        let arena = used(&kept);
        assert_eq!(clock.scheduled(), 1);
        drop(kept);
        assert_eq!(clock.scheduled(), 0);
        assert_eq!(arena.alloc_str("outlives it"), "outlives it");
    }

    #[test]
    fn a_pool_without_trimming_is_not_scheduled() {
        let clock = ManualClock::new();
        let for_ever = pool(&clock).trim_interval(None).build().unwrap();
        let disabled = pool(&clock).enabled(false).build().unwrap();
        drop((used(&for_ever), used(&disabled)));
        assert_eq!(clock.scheduled(), 0);
    }
}
