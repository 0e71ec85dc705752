//! What a pool keeps, for how long, and when it frees arenas. The clock is the test's.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};
use tower_memory::{Arena, ArenaPool, housekeeping::ManualClock};

use super::quiet_panic;

const INTERVAL: Duration = Duration::from_secs(10);

fn pool() -> (ArenaPool, ManualClock) {
    let clock = ManualClock::new();
    let pool = ArenaPool::builder()
        .trim_interval(INTERVAL)
        .clock(&clock)
        .build();
    (pool.unwrap(), clock)
}

fn used(pool: &ArenaPool) -> Arena {
    let arena = pool.rent();
    arena.alloc_str("something");
    arena
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[test]
fn unused_arenas_are_freed_after_two_intervals_without_traffic() {
    let (pool, clock) = pool();
    let arenas: Vec<Arena> = (0..20).map(|_| used(&pool)).collect();
    drop(arenas);
    let kept = pool.stats().pooled_bytes;
    assert_eq!(pool.stats().pooled, 20);
    clock.advance(INTERVAL / 2);
    assert_eq!(pool.stats().pooled, 20, "too early");
    clock.advance(2 * INTERVAL);
    let stats = pool.stats();
    assert_eq!((stats.pooled, stats.pooled_bytes), (0, 0));
    assert_eq!(stats.evicted_bytes, kept as u64);
}

#[test]
fn other_threads_caches_are_trimmed_too() {
    let (pool, clock) = pool();
    let arenas: Vec<Arena> = (0..5).map(|_| used(&pool)).collect();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (ready, returned) = std::sync::mpsc::channel();
    let idle = thread::spawn(move || {
        drop(arenas);
        ready.send(()).unwrap();
        // The arenas are in this thread's cache, and the thread does nothing.
        let _ = receiver.recv();
    });
    returned.recv().unwrap();
    assert_eq!(pool.stats().pooled, 5);
    clock.advance(2 * INTERVAL + INTERVAL / 2);
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
    drop(sender);
    idle.join().unwrap();
}

#[test]
fn an_arena_in_steady_use_stays_and_the_others_go() {
    let (pool, clock) = pool();
    let burst: Vec<Arena> = (0..30).map(|_| used(&pool)).collect();
    drop(burst);
    for _ in 0..60 {
        drop(used(&pool));
        clock.advance(INTERVAL / 3);
    }
    let stats = pool.stats();
    assert_eq!((stats.misses, stats.hits, stats.pooled), (30, 60, 1));
}

#[test]
fn a_hot_arena_is_trimmed_once_a_request_has_grown_it() {
    let (pool, clock) = pool();
    for _ in 0..100 {
        drop(used(&pool));
    }
    clock.advance(9 * INTERVAL);
    assert_eq!(pool.stats().pooled, 1, "hot");
    // The last request: no later rent starts the task.
    pool.rent().alloc_slice_fill_iter((0..60_000).map(|_| 1_u8));
    assert!(pool.stats().pooled_bytes >= 60_000);
    clock.advance(2 * INTERVAL + INTERVAL / 2);
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
}

#[test]
fn a_pool_without_trimming_keeps_its_arenas() {
    let clock = ManualClock::new();
    let for_ever = ArenaPool::builder().trim_interval(None).clock(&clock);
    let disabled = ArenaPool::builder().enabled(false).clock(&clock);
    let [for_ever, disabled] = [for_ever, disabled].map(|pool| pool.build().unwrap());
    drop((used(&for_ever), used(&disabled)));
    clock.advance(100 * INTERVAL);
    assert_eq!((for_ever.stats().pooled, disabled.stats().pooled), (1, 0));
}

/// Asserts that the pool is trimmed though the runtime that used it has gone, and goes on to be.
#[track_caller]
fn assert_trimmed_on_the_next_runtime(pool: &ArenaPool, clock: &ManualClock) {
    assert!(pool.stats().pooled > 0);
    clock.advance(2 * INTERVAL);
    assert!(pool.stats().pooled <= 1, "except the hot arena");
    runtime().block_on(async {
        let arenas: Vec<Arena> = (0..10).map(|_| used(pool)).collect();
        drop(arenas);
        clock.advance(3 * INTERVAL);
        assert!(pool.stats().pooled <= 1, "except the hot arena");
        assert_eq!(tasks(), 0, "on no runtime");
    });
}

#[test]
fn a_runtime_that_shuts_down_does_not_end_trimming() {
    let (pool, clock) = pool();
    let first = runtime();
    first.block_on(async {
        drop([used(&pool), used(&pool)]);
        clock.advance(INTERVAL / 2);
    });
    drop(first);
    assert_trimmed_on_the_next_runtime(&pool, &clock);
}

#[test]
fn a_runtime_that_a_panic_drops_does_not_either() {
    let (pool, clock) = pool();
    let down = catch_unwind(AssertUnwindSafe(|| {
        let first = runtime();
        first.block_on(async {
            drop([used(&pool), used(&pool)]);
            clock.advance(INTERVAL / 2);
        });
        quiet_panic()
    }));
    assert!(down.is_err());
    assert_trimmed_on_the_next_runtime(&pool, &clock);
}

#[test]
fn without_a_runtime_or_its_timers_a_pool_is_trimmed_too() {
    let (pool, clock) = pool();
    drop([used(&pool), used(&pool)]);
    clock.advance(3 * INTERVAL);
    assert_eq!(pool.stats().pooled, 0);
    runtime().block_on(async {
        drop([used(&pool), used(&pool)]);
        assert_eq!(tasks(), 0);
    });
    let kept = pool.stats().pooled_bytes;
    assert_eq!(pool.trim(), kept);
    assert_eq!(pool.stats().pooled, 0);
}

#[test]
fn a_burst_is_freed() {
    const COUNT: usize = 1000;
    const BYTES: usize = 1024 * 1024;
    let clock = ManualClock::new();
    let pool = ArenaPool::builder().clock(&clock).build().unwrap();
    let arenas: Vec<Arena> = (0..COUNT)
        .map(|n| {
            let arena = pool.rent_with_capacity(BYTES);
            assert_eq!(*arena.alloc(n), n);
            arena
        })
        .collect();
    let burst = pool.stats().rented_bytes;
    assert!(burst >= COUNT * BYTES);
    drop(arenas);
    assert!(pool.stats().pooled_bytes <= 64 * 1024 * 1024);
    for second in 0..30 {
        // Small requests go on, and none of them fails.
        let arena = pool.rent();
        assert_eq!(*arena.alloc(second), second);
        clock.advance(Duration::from_secs(1));
    }
    let kept = pool.stats().pooled_bytes;
    assert!(kept < burst / 10, "{kept} of {burst}");
    assert!(kept <= BYTES, "{kept}: more than the small requests use");
}

#[test]
fn each_thread_keeps_one_small_arena_and_no_more() {
    let (pool, clock) = pool();
    for _ in 0..10 {
        drop([used(&pool), used(&pool)]);
    }
    clock.advance(3 * INTERVAL);
    let stats = pool.stats();
    assert!(
        stats.pooled <= 1 && stats.pooled_bytes <= 64 * 1024,
        "{stats:?}"
    );
    assert_eq!(pool.trim(), stats.pooled_bytes);
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
    // A thread that ends gives it up.
    let other = pool.clone();
    thread::spawn(move || (0..10).for_each(|_| drop(used(&other))))
        .join()
        .unwrap();
    let pooled = pool.stats().pooled_bytes;
    assert_eq!(pool.trim(), pooled);
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
}

#[test]
fn a_small_request_does_not_take_a_large_arena() {
    let pool = ArenaPool::builder()
        .initial_bytes(4096)
        .max_arena_bytes(1 << 20)
        .trim_interval(None)
        .build()
        .unwrap();
    let large = pool.rent_with_capacity(500_000);
    large.alloc(1_u8);
    let capacity = large.capacity();
    assert!(capacity >= 500_000);
    drop(large);
    let small = pool.rent_with_capacity(1000);
    small.alloc(1_u8);
    assert!(small.capacity() <= 4096, "{}", small.capacity());
    assert_eq!(
        (pool.stats().pooled, pool.stats().pooled_bytes),
        (1, capacity)
    );
    let large = pool.rent_with_capacity(400_000);
    assert_eq!((large.capacity(), pool.stats().hits), (capacity, 1));
}

#[test]
fn a_thread_has_caches_of_few_pools_and_loses_no_arena_of_the_others() {
    let pools: Vec<ArenaPool> = (0..7)
        .map(|_| ArenaPool::builder().trim_interval(None).build().unwrap())
        .collect();
    for round in 0..5 {
        for pool in &pools {
            drop([used(pool), used(pool)]);
            assert_eq!((pool.stats().pooled, pool.stats().rented), (2, 0));
            assert_eq!(pool.stats().misses, 2, "round {round}");
        }
    }
    for pool in &pools {
        let kept = pool.stats().pooled_bytes;
        assert_eq!(pool.trim(), kept);
        assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
    }
}
