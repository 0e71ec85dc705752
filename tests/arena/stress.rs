//! Many threads at once, for the sanitizers: everything is checked here too, but what they see is
//! what was never checked.

use std::{
    cell::RefCell,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use tower_memory::{Arena, ArenaPool};

/// Uses the arena in every way, and finds everything as it was left.
fn use_all(arena: &Arena, mark: u64, rounds: u64) {
    let mut cursor = arena.cursor();
    let mut kept = Vec::new();
    let mut texts = Vec::new();
    let mut list = arena.vec();
    let mut owned = allocator_api2::vec::Vec::new_in(arena.clone());
    let mut frozen = Vec::new();
    for round in 0..rounds {
        let value = mark << 32 | round;
        kept.push(cursor.alloc_slice_fill_iter((0..1 + round as usize % 9).map(|_| value)));
        kept.push(std::slice::from_mut(arena.alloc(value)));
        texts.push(cursor.alloc_fmt(format_args!("{value}")));
        list.push(value);
        owned.push(value);
        let mut built = cursor.vec();
        built.extend((0..round % 50).map(|_| value));
        if round % 3 == 0 {
            kept.push(built.into_slice());
        } else {
            drop(built);
        }
        if round % 7 == 0 {
            cursor = arena.cursor();
            let mut buf = arena.buf();
            buf.extend_from_slice(&value.to_le_bytes());
            frozen.push((value, buf.split().freeze()));
            frozen.truncate(10);
        }
    }
    let whose = |value: &u64| value >> 32 == mark;
    assert!(kept.iter().all(|slice| slice.iter().all(whose)));
    assert!(list.iter().all(whose) && owned.iter().all(whose));
    for (round, text) in (0..).zip(&texts) {
        assert_eq!(**text, (mark << 32 | round).to_string());
    }
    for (value, bytes) in &frozen {
        assert_eq!(bytes[..], value.to_le_bytes());
    }
}

#[test]
fn threads_that_share_an_arena_find_what_they_left() {
    let pool = ArenaPool::builder().initial_bytes(512).build().unwrap();
    for threads in [2, 2, 4, 7] {
        let arena = pool.rent();
        let start = Barrier::new(threads);
        thread::scope(|scope| {
            for mark in 1..=threads as u64 {
                let (arena, start) = (&arena, &start);
                scope.spawn(move || {
                    start.wait();
                    use_all(arena, mark, 300);
                });
            }
        });
        drop(arena);
        assert_eq!((pool.stats().rented, pool.stats().rented_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn tasks_of_one_request_share_its_arena_across_awaits() {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let tasks: Vec<_> = (0..12_u64)
        .map(|mark| {
            let arena = arena.clone();
            tokio::spawn(async move {
                let mut cursor = arena.cursor();
                let mut kept = Vec::new();
                for round in 0..100 {
                    kept.push(cursor.alloc(mark << 32 | round));
                    let text = arena.alloc_fmt(format_args!("{mark}-{round}"));
                    tokio::task::yield_now().await;
                    assert_eq!(*text, format!("{mark}-{round}"));
                }
                (0..)
                    .zip(kept)
                    .all(|(round, value)| *value == mark << 32 | round)
            })
        })
        .collect();
    drop(arena);
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!((pool.stats().rented, pool.stats().rented_bytes), (0, 0));
}

#[test]
fn a_pool_under_threads_that_come_and_go_loses_and_doubles_nothing() {
    const TOTAL: usize = 40 * 1024;
    let pool = ArenaPool::builder()
        .initial_bytes(1024)
        .max_arena_bytes(8 * 1024)
        .max_total_bytes(TOTAL)
        .build()
        .unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut evicted = 0;
            while !done.load(Ordering::Relaxed) {
                pool.trim();
                for _ in 0..20 {
                    let stats = pool.stats();
                    assert!(stats.pooled_bytes <= TOTAL, "{stats:?}");
                    assert!(stats.evicted_bytes >= evicted, "{stats:?}");
                    evicted = stats.evicted_bytes;
                    thread::yield_now();
                }
            }
        });
        for wave in 0..12_u64 {
            thread::scope(|scope| {
                let (sender, receiver) = mpsc::sync_channel::<(u64, Arena)>(8);
                // What is rented here is returned there, by a thread that ends sooner or later.
                scope.spawn(move || {
                    for (mark, arena) in receiver {
                        use_all(&arena, mark, 5);
                    }
                });
                for thread in 0..3 {
                    let (pool, sender) = (&pool, sender.clone());
                    scope.spawn(move || {
                        for round in 0..40 {
                            let mark = wave << 16 | thread << 8 | round;
                            let arena = pool.rent_with_capacity(round as usize * 150);
                            use_all(&arena, mark, round);
                            if round % 2 == 0 {
                                sender.send((mark, arena)).unwrap();
                            }
                        }
                    });
                }
            });
        }
        done.store(true, Ordering::Relaxed);
    });
    let stats = pool.stats();
    assert_eq!((stats.rented, stats.rented_bytes), (0, 0));
    assert_eq!(stats.hits + stats.misses, 12 * 3 * 40);
    assert!(stats.pooled_bytes <= TOTAL);
    assert_eq!(pool.trim(), stats.pooled_bytes);
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
}

#[test]
fn arenas_that_a_thread_keeps_to_its_end_come_back() {
    thread_local! {
        static BEFORE: RefCell<Vec<Arena>> = const { RefCell::new(Vec::new()) };
        static AFTER: RefCell<Vec<Arena>> = const { RefCell::new(Vec::new()) };
    }
    let pool = ArenaPool::new();
    for _ in 0..10 {
        let own = pool.clone();
        thread::spawn(move || {
            // Thread-locals are dropped in one order or the other around the pool's own.
            BEFORE.with_borrow_mut(Vec::clear);
            let arenas: Vec<Arena> = (0..20).map(|_| own.rent()).collect();
            for arena in &arenas {
                arena.alloc_str("kept to the end");
            }
            AFTER.with_borrow_mut(|after| after.extend_from_slice(&arenas[..10]));
            BEFORE.with_borrow_mut(|before| before.extend_from_slice(&arenas[10..]));
        })
        .join()
        .unwrap();
        assert_eq!((pool.stats().rented, pool.stats().rented_bytes), (0, 0));
    }
    assert_eq!(
        pool.stats().misses,
        20,
        "what a thread had goes to the next one"
    );
    let pooled = pool.stats().pooled_bytes;
    assert_eq!(pool.trim(), pooled);
    assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
}
