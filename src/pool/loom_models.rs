//! Interleavings of two or three threads at what a pool shares: thread caches, the shared cache,
//! trimming, and the end of the pool.
//!
//! Each thread is given its cache by hand: `local` keeps it in a `thread_local!`, and loom's
//! threads share that.

use loom::thread;

use super::{
    class::Wanted, counters::Writer, kind::Kind, local, settings::Settings,
    shared_cache::SharedCache, state::PoolState, stats::PoolStats, tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::{BlockPool, IdleArena, IdleBlock, PoolHint, Recycler, Slot},
    housekeeping::Housekeeping,
    sync::{Arc, Ordering},
};

/// Bytes of a pool's new arenas, and their class.
const BYTES: usize = 64;
const CLASS: usize = 8;

const ANY: Wanted = Wanted {
    class: CLASS,
    last: CLASS + 1,
};

/// Keeps the returned arena, so that a model gets one with memory.
struct Caught(std::sync::Mutex<Option<IdleArena>>);

impl BlockPool for Caught {
    fn take_block(_: usize, _: usize) -> Option<IdleBlock> {
        None
    }

    fn take_block_owned(self: Arc<Self>, _: usize) -> Option<IdleBlock> {
        None
    }

    fn recycle_block(_: IdleBlock, _: usize) {}

    fn recycle_block_owned(self: Arc<Self>, _: IdleBlock) {}

    fn handed_out(&self, _: u32, _: usize) {}
}

impl Recycler for Caught {
    fn recycle(arena: IdleArena, _: usize) {
        arena.recycle_owned();
    }

    fn recycle_owned(self: Arc<Self>, arena: IdleArena) {
        *self.0.lock().expect("no panic") = Some(arena);
    }

    fn grew(&self, _bytes: usize) {}

    fn left_behind(&self, _: u32) {}
}

/// `arena` after it was used: it has a chunk of its initial size.
fn used(mut arena: IdleArena) -> IdleArena {
    let caught = Arc::new(Caught(std::sync::Mutex::new(None)));
    arena.attach(Arc::clone(&caught));
    arena.activate().alloc(1_u8);
    let arena = caught.0.lock().expect("no panic").take();
    arena.expect("it came back")
}

/// What the models do with both kinds of items.
trait Item: Kind + Send + 'static {
    /// An item of `bytes` bytes, which identify it. A thread that does not see it as it was made sees
    /// none.
    fn marked(bytes: usize) -> Self;

    fn rent(pool: &Arc<PoolState>, cache: Option<&ThreadCache>) -> Self;

    fn give_back(self, pool: &Arc<PoolState>, cache: Option<&ThreadCache>);

    /// How many are in use, their bytes, and how many wait.
    fn figures(stats: &PoolStats) -> (usize, usize, usize);
}

impl Item for IdleArena {
    fn marked(bytes: usize) -> Self {
        used(Self::new(bytes))
    }

    fn rent(pool: &Arc<PoolState>, cache: Option<&ThreadCache>) -> Self {
        let arena = pool.rent_with(ANY, None, cache);
        if arena.capacity() > 0 {
            return arena;
        }
        pool.grew(BYTES);
        let mut arena = used(arena);
        arena.attach(Arc::clone(pool));
        arena
    }

    fn give_back(self, pool: &Arc<PoolState>, cache: Option<&ThreadCache>) {
        drop(pool.return_cached(self, cache));
    }

    fn figures(stats: &PoolStats) -> (usize, usize, usize) {
        (stats.rented, stats.rented_bytes, stats.pooled)
    }
}

impl Item for IdleBlock {
    fn marked(bytes: usize) -> Self {
        let mut block = Self::new(bytes).expect("memory");
        block.set_hint(PoolHint {
            capacity: bytes,
            class: CLASS as u8,
            hot: false,
        });
        block
    }

    fn rent(pool: &Arc<PoolState>, cache: Option<&ThreadCache>) -> Self {
        pool.block(BYTES, None, cache).expect("memory")
    }

    fn give_back(self, pool: &Arc<PoolState>, cache: Option<&ThreadCache>) {
        drop(pool.return_block(self, cache));
    }

    fn figures(stats: &PoolStats) -> (usize, usize, usize) {
        (stats.buffers, stats.buffer_bytes, stats.pooled_buffers)
    }
}

fn capacity<T: Kind>(item: &Option<T>) -> usize {
    item.as_ref().map_or(0, T::capacity)
}

/// Each model once for arenas, once for blocks.
macro_rules! of_both_kinds {
    ($($model:ident),* $(,)?) => {
        mod arenas {
            $(#[test] fn $model() { super::$model::<super::IdleArena>(); })*
        }
        mod blocks {
            $(#[test] fn $model() { super::$model::<super::IdleBlock>(); })*
        }
    };
}

of_both_kinds!(
    an_arena_in_a_slot_goes_to_its_owner_or_to_one_thief,
    of_two_thieves_one_gets_the_arena,
    the_shared_cache_hands_each_arena_to_one_thread,
    a_sweep_takes_what_is_stale_and_leaves_the_rest,
    a_trim_meets_a_rent_and_a_return,
    a_tick_meets_a_return_and_a_rent,
    two_returns_never_keep_more_than_the_total,
    what_one_thread_returns_another_one_rents,
    a_pool_that_closes_misses_no_arena_returned_without_a_cache,
    a_pool_that_closes_misses_no_arena_of_a_thread_that_ends,
    a_pool_that_closes_misses_no_arena_a_tick_puts_back,
    a_thread_cache_that_changes_owners_loses_no_counts,
    trimming_that_ends_is_seen_by_a_rent_or_sees_it,
);

/// `Slot`, invariant 1: one of two takers gets the arena, as it was put in.
fn an_arena_in_a_slot_goes_to_its_owner_or_to_one_thief<T: Item>() {
    loom::model(|| {
        let slot = Arc::new(Slot::<T>::new());
        let thief = thread::spawn({
            let slot = Arc::clone(&slot);
            move || capacity(&slot.take_tagged(5))
        });
        let mut seen = 0;
        assert!(slot.put(T::marked(32), 5).is_none());
        seen += capacity(&slot.take());
        assert!(
            slot.put(T::marked(64), 6).is_none(),
            "only the owner fills it"
        );
        seen += capacity(&slot.take());
        seen += thief.join().expect("no panic");
        assert_eq!(seen, 32 + 64, "lost, doubled, or not seen as it was put in");
    });
}

/// `Slot`, invariant 1, with two threads that only take: what `trim` and `tick` do at the same
/// time.
fn of_two_thieves_one_gets_the_arena<T: Item>() {
    loom::model(|| {
        let slot = Arc::new(Slot::<T>::new());
        let thieves = [(); 2].map(|()| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || capacity(&slot.take_tagged(5)))
        });
        assert!(slot.put(T::marked(32), 5).is_none());
        let stolen: usize = thieves
            .into_iter()
            .map(|thief| thief.join().expect("no panic"))
            .sum();
        assert_eq!(stolen + capacity(&slot.take()), 32);
    });
}

/// The bytes of up to `most` items of the shared cache.
fn taken<T: Kind>(shared_cache: &SharedCache<T>, most: u32) -> usize {
    let batch = shared_cache.take(ANY, most).into_iter().flatten();
    batch.map(|(item, _)| item.capacity()).sum()
}

/// `SharedCache`, invariants 1 and 2: one thread takes what another one has put, as it was put.
fn the_shared_cache_hands_each_arena_to_one_thread<T: Item>() {
    loom::model(|| {
        let shared_cache = Arc::new(SharedCache::<T>::new());
        let taker = thread::spawn({
            let shared_cache = Arc::clone(&shared_cache);
            move || {
                let batch = shared_cache.take(ANY, 1).into_iter().flatten();
                batch.fold(0, |seen, (arena, tag)| {
                    assert_eq!(tag, Tag::new(CLASS, 1));
                    seen + arena.capacity()
                })
            }
        });
        for bytes in [32, 64] {
            assert!(
                shared_cache
                    .put(T::marked(bytes), Tag::new(CLASS, 1))
                    .is_none()
            );
        }
        let mut seen = 0;
        seen += taken(&shared_cache, 2);
        seen += taker.join().expect("no panic");
        assert_eq!((seen, shared_cache.waiting()), (32 + 64, 0));
    });
}

/// `SharedCache`, invariants 1 and 2: a slot that was emptied is filled again during a sweep.
fn a_sweep_takes_what_is_stale_and_leaves_the_rest<T: Item>() {
    loom::model(|| {
        let shared_cache = Arc::new(SharedCache::<T>::new());
        assert!(
            shared_cache
                .put(T::marked(32), Tag::new(CLASS, 0))
                .is_none()
        );
        let sweeper = thread::spawn({
            let shared_cache = Arc::clone(&shared_cache);
            move || {
                let mut seen = 0;
                shared_cache.sweep(|tag| tag.is_stale(2), |arena| seen += arena.capacity());
                seen
            }
        });
        let mut seen = 0;
        seen += taken(&shared_cache, 1);
        assert!(
            shared_cache
                .put(T::marked(64), Tag::new(CLASS, 2))
                .is_none()
        );
        let swept = sweeper.join().expect("no panic");
        assert_eq!(seen + swept, 32, "the stale one goes to one of them");
        seen += taken(&shared_cache, 2);
        assert_eq!((seen + swept, shared_cache.waiting()), (32 + 64, 0));
    });
}

/// A pool that may keep that many arenas.
fn pool(arenas: usize) -> Arc<PoolState> {
    let settings = Settings {
        initial_bytes: BYTES,
        max_arena_bytes: BYTES,
        max_total_bytes: arenas * BYTES,
        trim_interval: None,
        ..Settings::DEFAULT
    };
    Arc::new(PoolState::new(settings, Housekeeping::Process, None))
}

fn cache(pool: &PoolState, index: usize) -> &ThreadCache {
    pool.thread_caches
        .get(index)
        .expect("two threads have cache")
}

/// `PoolState`, invariant 1, when all threads are at rest: each byte is accounted for once.
fn check<T: Item>(pool: &Arc<PoolState>, in_use: usize) {
    let stats = pool.stats();
    let (now, bytes, waiting) = T::figures(&stats);
    assert_eq!(stats.pooled_bytes, waiting * BYTES, "{stats:?}");
    assert_eq!((now, bytes), (in_use, in_use * BYTES), "{stats:?}");
    assert!(stats.pooled_bytes <= pool.settings.max_total_bytes);
    assert_eq!(pool.trim(), stats.pooled_bytes);
    assert_eq!(T::figures(&pool.stats()).2, 0);
    assert_eq!(pool.stats().pooled_bytes, 0);
}

/// `PoolState`, invariant 2: nothing waits in a closed pool, or references it.
fn check_closed(pool: &Arc<PoolState>) {
    let stats = pool.stats();
    assert_eq!((stats.pooled, stats.pooled_buffers), (0, 0), "never freed");
    assert_eq!(Arc::strong_count(pool), 1, "kept by an item");
}

/// `ThreadCache`, invariant 1: the owner rents and returns while another thread frees what waits.
fn a_trim_meets_a_rent_and_a_return<T: Item>() {
    loom::model(|| {
        let pool = pool(16);
        let cache = cache(&pool, 0);
        T::rent(&pool, Some(cache)).give_back(&pool, Some(cache));
        let trimmer = thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.trim()
        });
        let arena = T::rent(&pool, Some(cache));
        assert_eq!(arena.capacity(), BYTES);
        arena.give_back(&pool, Some(cache));
        trimmer.join().expect("no panic");
        check::<T>(&pool, 0);
        pool.close();
        check_closed(&pool);
    });
}

/// A new epoch begins while the owner rents and returns.
fn a_tick_meets_a_return_and_a_rent<T: Item>() {
    loom::model(|| {
        let pool = pool(16);
        let cache = cache(&pool, 0);
        T::rent(&pool, Some(cache)).give_back(&pool, Some(cache));
        pool.tick();
        let arena = T::rent(&pool, Some(cache));
        let timer = thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.tick()
        });
        arena.give_back(&pool, Some(cache));
        let arena = T::rent(&pool, Some(cache));
        timer.join().expect("no panic");
        check::<T>(&pool, 1);
        arena.give_back(&pool, Some(cache));
        pool.close();
        check_closed(&pool);
    });
}

/// `PoolState`, invariant 1: both ask for the last bytes of the budget.
fn two_returns_never_keep_more_than_the_total<T: Item>() {
    loom::model(|| {
        let pool = pool(1);
        let arenas = [0, 1].map(|index| T::rent(&pool, Some(cache(&pool, index))));
        let [first, second] = arenas;
        let other = thread::spawn({
            let pool = Arc::clone(&pool);
            move || second.give_back(&pool, Some(cache(&pool, 1)))
        });
        first.give_back(&pool, Some(cache(&pool, 0)));
        assert!(pool.stats().pooled_bytes <= BYTES);
        other.join().expect("no panic");
        assert_eq!(T::figures(&pool.stats()).2, 1);
        check::<T>(&pool, 0);
        pool.close();
        check_closed(&pool);
    });
}

/// One thread rents, the other one returns: arenas move through the shared cache.
fn what_one_thread_returns_another_one_rents<T: Item>() {
    loom::model(|| {
        let pool = pool(16);
        let arenas = [(); 2].map(|()| T::rent(&pool, Some(cache(&pool, 0))));
        let other = thread::spawn({
            let pool = Arc::clone(&pool);
            move || {
                for arena in arenas {
                    arena.give_back(&pool, Some(cache(&pool, 1)));
                }
            }
        });
        let arena = T::rent(&pool, Some(cache(&pool, 0)));
        assert_eq!(arena.capacity(), BYTES);
        other.join().expect("no panic");
        check::<T>(&pool, 1);
        arena.give_back(&pool, Some(cache(&pool, 0)));
        pool.close();
        check_closed(&pool);
    });
}

/// `PoolState`, invariant 2: a thread without a cache does not look again, so it must miss nothing.
fn a_pool_that_closes_misses_no_arena_returned_without_a_cache<T: Item>() {
    loom::model(|| {
        let pool = pool(16);
        let arena = T::rent(&pool, None);
        let other = thread::spawn({
            let pool = Arc::clone(&pool);
            move || arena.give_back(&pool, None)
        });
        pool.close();
        other.join().expect("no panic");
        check_closed(&pool);
    });
}

/// `PoolState`, invariant 2: a thread with a cache looks again when it ends.
fn a_pool_that_closes_misses_no_arena_of_a_thread_that_ends<T: Item>() {
    loom::model(|| {
        let pool = pool(16);
        let arena = T::rent(&pool, Some(cache(&pool, 0)));
        let other = thread::spawn({
            let pool = Arc::clone(&pool);
            move || {
                let cache = cache(&pool, 0);
                arena.give_back(&pool, Some(cache));
                local::park_all::<T>(&pool, cache, None);
                local::leave(&pool, cache);
            }
        });
        pool.close();
        other.join().expect("no panic");
        check_closed(&pool);
        assert_eq!(pool.stats().pooled_bytes, 0);
    });
}

/// `PoolState`, invariant 2: a tick that puts an arena back does not leave it behind.
fn a_pool_that_closes_misses_no_arena_a_tick_puts_back<T: Item>() {
    loom::model(|| {
        let pool = pool(16);
        let arenas = [(); 2].map(|()| T::rent(&pool, None));
        let [first, second] = arenas;
        first.give_back(&pool, None);
        pool.tick();
        let timer = thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.tick()
        });
        // A fresh arena replaces a stale one that the tick has seen.
        let first = T::rent(&pool, None);
        second.give_back(&pool, None);
        pool.close();
        first.give_back(&pool, None);
        timer.join().expect("no panic");
        check_closed(&pool);
    });
}

/// `ThreadCache`: the next owner continues the former owner's counters.
fn a_thread_cache_that_changes_owners_loses_no_counts<T: Item>() {
    loom::model(|| {
        let cache = Arc::new(ThreadCache::new(Writer::Exclusive));
        let threads = [(); 2].map(|()| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let local = cache.try_own();
                if local {
                    T::share(&cache).counters.add_return();
                    cache.disown();
                }
                u64::from(local)
            })
        });
        let owners: u64 = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum();
        let counted = &T::share(&cache).counters.returned;
        assert_eq!(counted.load(Ordering::Relaxed), owners);
    });
}

/// `Job`, invariant 2, with the pool's own counters as the record of work.
fn trimming_that_ends_is_seen_by_a_rent_or_sees_it<T: Item>() {
    loom::model(|| {
        let pool = Arc::new(PoolState::new(
            Settings::DEFAULT,
            Housekeeping::Process,
            None,
        ));
        assert!(pool.trimmer.begin());
        let task = thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.trimmer.finish(|| pool.is_idle())
        });
        // As in `rent_elsewhere`.
        let counters = &T::share(&pool.thread_caches[0]).counters;
        counters.add(&counters.misses, 1);
        let starts = pool.trimmer.needs_start();
        let ended = task.join().expect("no panic");
        assert!(starts || !ended, "an arena is rented, and nothing trims");
    });
}
