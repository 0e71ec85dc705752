//! A pool's statistics and limits, and when an arena is returned.

use std::{collections::VecDeque, thread};

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tower_memory::{Arena, ArenaPool, ConfigError};

const INITIAL: usize = 1000;
const MAX_ARENA: usize = 10_000;
const MAX_TOTAL: usize = 40_000;

fn small_pool() -> ArenaPool {
    ArenaPool::builder()
        .initial_bytes(INITIAL)
        .max_arena_bytes(MAX_ARENA)
        .max_total_bytes(MAX_TOTAL)
        .build()
        .unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Rent,
    Alloc(usize, usize),
    Clone(usize),
    Freeze(usize, usize),
    Return(usize),
    DropBytes,
    Trim,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![6 => 1..2000_usize, 1 => 1..30_000_usize];
    prop_oneof![
        4 => Just(Op::Rent),
        4 => (0..20_usize, size.clone()).prop_map(|(i, n)| Op::Alloc(i, n)),
        1 => (0..20_usize).prop_map(Op::Clone),
        2 => (0..20_usize, size).prop_map(|(i, n)| Op::Freeze(i, n)),
        4 => (0..20_usize).prop_map(Op::Return),
        2 => Just(Op::DropBytes),
        1 => Just(Op::Trim),
    ]
}

/// A rented arena: its handles.
struct Rented {
    handles: Vec<Arena>,
}

/// Taken from the system by a rented arena, without its buffers.
fn arena_bytes(rented: &Rented) -> usize {
    rented.handles.first().map_or(0, Arena::capacity)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn the_statistics_are_those_of_a_model(ops in prop::collection::vec(op(), 1..120)) {
        let pool = small_pool();
        let mut out: Vec<Rented> = Vec::new();
        let mut frozen: VecDeque<(Bytes, u8)> = VecDeque::new();
        let mut rents = 0_u64;
        for (number, op) in ops.into_iter().enumerate() {
            let before = pool.stats();
            match op {
                Op::Rent => {
                    let arena = pool.rent();
                    prop_assert_eq!(arena.allocated_bytes(), 0);
                    prop_assert_eq!(arena.capacity() > 0, before.pooled > 0);
                    prop_assert_eq!(pool.stats().hits - before.hits, u64::from(before.pooled > 0));
                    rents += 1;
                    out.push(Rented { handles: vec![arena] });
                }
                Op::Alloc(i, n) if !out.is_empty() => {
                    let i = i % out.len();
                    if let Some(arena) = out[i].handles.first() {
                        arena.alloc_slice_fill_iter((0..n).map(|_| 1_u8));
                    }
                }
                Op::Clone(i) if !out.is_empty() => {
                    let i = i % out.len();
                    let clone = out[i].handles.first().cloned();
                    out[i].handles.extend(clone);
                }
                Op::Freeze(i, n) if !out.is_empty() => {
                    let i = i % out.len();
                    if let Some(arena) = out[i].handles.first() {
                        let mut buf = arena.buf();
                        buf.put_bytes(number as u8, n);
                        frozen.push_back((buf.freeze(), number as u8));
                    }
                }
                Op::Return(i) if !out.is_empty() => {
                    let i = i % out.len();
                    out[i].handles.clear();
                }
                Op::DropBytes => {
                    if let Some((bytes, mark)) = frozen.pop_front() {
                        prop_assert!(bytes.iter().all(|&byte| byte == mark), "overwritten");
                    }
                }
                Op::Trim => {
                    prop_assert_eq!(pool.trim(), before.pooled_bytes);
                    prop_assert_eq!((pool.stats().pooled, pool.stats().pooled_bytes), (0, 0));
                }
                _ => {}
            }
            out.retain(|rented| !rented.handles.is_empty());
            let stats = pool.stats();
            prop_assert_eq!(stats.rented, out.len());
            // Shorter bytes were copied, longer ones are in a block each.
            let blocks = frozen.iter().map(|(bytes, _)| bytes.len()).filter(|&len| len > 256);
            prop_assert_eq!(stats.buffers, blocks.clone().count());
            prop_assert!(stats.buffer_bytes >= blocks.sum());
            prop_assert_eq!(stats.buffers > 0, stats.buffer_bytes > 0);
            prop_assert_eq!(stats.hits + stats.misses, rents);
            prop_assert!(stats.pooled_bytes <= MAX_TOTAL);
            prop_assert!(stats.pooled_bytes <= (stats.pooled + stats.pooled_buffers) * MAX_ARENA);
            prop_assert_eq!(stats.pooled + stats.pooled_buffers > 0, stats.pooled_bytes > 0);
            prop_assert!(stats.evicted_bytes >= before.evicted_bytes);
            prop_assert_eq!(stats.rented_bytes, out.iter().map(arena_bytes).sum::<usize>());
        }
        out.clear();
        frozen.clear();
        let stats = pool.stats();
        prop_assert_eq!((stats.rented, stats.rented_bytes), (0, 0));
        prop_assert_eq!((stats.buffers, stats.buffer_bytes), (0, 0));
    }
}

#[test]
fn the_last_handle_returns_the_arena_whichever_it_is() {
    let pool = small_pool();
    let arena = pool.rent();
    arena.alloc(1_u8);
    let clone = arena.clone();
    let mut buf = arena.buf();
    buf.put_slice(&[7; 500]);
    let bytes = buf.freeze();
    drop(arena);
    drop(clone);
    assert_eq!((pool.stats().rented, pool.stats().pooled), (0, 1));
    assert_eq!((pool.stats().buffers, pool.stats().pooled_buffers), (1, 0));
    assert_eq!(bytes, [7; 500].as_slice());
    drop(bytes);
    assert_eq!((pool.stats().buffers, pool.stats().pooled_buffers), (0, 1));
    assert_eq!(pool.stats().pooled_bytes, INITIAL + 1024);
}

#[test]
fn an_arena_keeps_its_largest_chunk_up_to_four_times_what_was_asked_for() {
    let pool = small_pool();
    let arena = pool.rent();
    for _ in 0..20 {
        arena.alloc_slice_fill_iter((0..900).map(|_| 1_u8));
    }
    let large = arena.capacity();
    assert!(large > MAX_ARENA);
    drop(arena);
    let stats = pool.stats();
    assert_eq!(stats.pooled_bytes, 4 * INITIAL, "of what it was rented for");
    assert_eq!(stats.evicted_bytes, (large - stats.pooled_bytes) as u64);
}

#[test]
fn an_arena_that_is_too_large_as_a_whole_is_not_kept() {
    let pool = small_pool();
    let arena = pool.rent();
    arena.alloc_slice_fill_iter((0..MAX_ARENA + 1).map(|_| 1_u8));
    let bytes = arena.capacity();
    drop(arena);
    let stats = pool.stats();
    assert_eq!((stats.pooled, stats.pooled_bytes, stats.rented), (0, 0, 0));
    assert_eq!(stats.evicted_bytes, bytes as u64);
}

#[test]
fn all_together_keep_no_more_than_the_total() {
    let pool = small_pool();
    let arenas: Vec<_> = (0..100).map(|_| pool.rent()).collect();
    for arena in &arenas {
        arena.alloc_str("one chunk");
    }
    assert_eq!(pool.stats().rented_bytes, 100 * INITIAL);
    drop(arenas);
    let stats = pool.stats();
    assert_eq!((stats.pooled, stats.pooled_bytes), (40, MAX_TOTAL));
    assert_eq!(stats.evicted_bytes, 60 * INITIAL as u64);
    assert_eq!(pool.trim(), MAX_TOTAL);
    assert_eq!(pool.stats().evicted_bytes, 100 * INITIAL as u64);
    assert_eq!(pool.trim(), 0);
}

#[test]
fn an_unused_arena_does_not_wait() {
    let pool = small_pool();
    drop(pool.rent());
    let stats = pool.stats();
    assert_eq!((stats.rented, stats.pooled, stats.misses), (0, 0, 1));
}

/// So new arenas in a program that is warm are of threads that begin, for which its requests have moved.
#[test]
fn a_thread_that_begins_makes_65_arenas_until_it_keeps_one_that_is_not_used() {
    let pool = small_pool();
    let begin = || {
        let before = pool.stats().misses;
        for rented in 1..=1000 {
            drop(pool.rent());
            assert_eq!(pool.stats().misses - before, rented.min(65));
        }
    };
    begin();
    thread::scope(|threads| threads.spawn(begin).join().unwrap());
    assert_eq!(pool.stats().hits, 2 * (1000 - 65));
}

#[test]
fn an_arena_outlives_its_pool() {
    let pool = small_pool();
    let waiting = pool.rent();
    waiting.alloc_str("waits");
    let rented = pool.rent();
    let text = rented.alloc_str("rented");
    drop(waiting);
    drop(pool);
    assert_eq!(text, "rented");
    assert_eq!(rented.alloc_str("still"), "still");
}

#[test]
fn a_pool_that_cannot_work_is_refused_with_its_numbers() {
    let build = |initial, arena, total| {
        ArenaPool::builder()
            .initial_bytes(initial)
            .max_arena_bytes(arena)
            .max_total_bytes(total)
            .build()
            .unwrap_err()
    };
    assert_eq!(build(0, 1, 1), ConfigError::InitialZero);
    assert!(matches!(
        build(3, 2, 5),
        ConfigError::InitialAboveArena {
            initial_bytes: 3,
            max_arena_bytes: 2,
            ..
        }
    ));
    assert!(matches!(
        build(1, 5, 4),
        ConfigError::ArenaAboveTotal {
            max_arena_bytes: 5,
            max_total_bytes: 4,
            ..
        }
    ));
    assert!(matches!(
        build(usize::MAX, usize::MAX, usize::MAX),
        ConfigError::SizeTooLarge {
            name: "initial_bytes",
            asked: usize::MAX,
            ..
        }
    ));
    let largest = isize::MAX as usize;
    let pool = ArenaPool::builder()
        .max_arena_bytes(largest)
        .max_total_bytes(largest)
        .build()
        .unwrap();
    assert_eq!(pool.rent().alloc_str("fits"), "fits");
}
