//! One arena, and one pool, under several threads at once; and what may go to other threads.

use std::{
    sync::{Arc, Barrier, mpsc},
    thread,
};

use bytes::{BufMut, Bytes};
use http::Response;
use http_body_util::Full;
use tower_memory::{
    Account, Arena, ArenaBuf, ArenaPool, ArenaString, ArenaVec, MemoryHandle, MemoryLayer,
    MemoryService, RequestScope, ScopeReport,
    account::Tracked,
    arena::{ArenaBox, ArenaError, Cursor, CursorString, CursorVec, IntoIter},
    middleware::{ResponseBody, ResponseFuture},
    observe::Snapshot,
    pool::{PoolBuilder, PoolStats},
    scope::{ScopeHold, TaskHandle},
};

fn send<T: Send>() {}
fn send_sync<T: Send + Sync>() {}
fn send_value<T: Send>(_: &T) {}

type Answer = std::future::Ready<Result<Response<Full<Bytes>>, std::io::Error>>;

#[test]
fn the_types_may_go_to_other_threads() {
    send_sync::<Account>();
    send_sync::<Arena>();
    send_sync::<ArenaPool>();
    send_sync::<ArenaBuf>();
    send_sync::<ArenaBox<'_, u8>>();
    send_sync::<ArenaString<'_>>();
    send_sync::<ArenaVec<'_, u8>>();
    send_sync::<IntoIter<'_, u8>>();
    send_sync::<Cursor<'_>>();
    send_sync::<CursorVec<'_, '_, u8>>();
    send_sync::<CursorString<'_, '_>>();
    send_sync::<ArenaError>();
    send_sync::<PoolBuilder>();
    send_sync::<PoolStats>();
    // What they hold decides; what may not be shared, or not be sent, is in `docs/soundness.md`.
    send::<CursorVec<'_, '_, std::cell::Cell<u8>>>();
    send_sync::<MemoryHandle>();
    send_sync::<MemoryLayer>();
    send_sync::<MemoryService<()>>();
    send_sync::<RequestScope>();
    send_sync::<ScopeHold>();
    send_sync::<ScopeReport>();
    send_sync::<Snapshot>();
    send::<ArenaVec<'_, std::cell::Cell<u8>>>();
    send_sync::<ResponseBody<Full<Bytes>>>();
    send::<ResponseFuture<Answer>>();
    send::<Tracked<Answer>>();
    send::<TaskHandle<u8>>();
    let futures = |scope: RequestScope| {
        send_value(&scope.cancelled());
        send_value(&scope.spawn(async {}));
        let across_await = async {
            let arena = scope.arena();
            let (value, text) = (arena.alloc(1), arena.alloc_str("held"));
            let mut list = arena.vec::<u8>();
            let mut cursor = arena.cursor();
            let (one, mut two) = (cursor.alloc(1_u8), cursor.string());
            tokio::task::yield_now().await;
            list.push(*value + *one);
            two.push('2');
            (list.len(), text.len())
        };
        send_value(&across_await);
    };
    let _ = futures;
}

/// A number that tells who wrote it, and where it belongs.
fn mark(thread: usize, round: usize, at: usize) -> u64 {
    (thread as u64) << 48 | (round as u64) << 24 | at as u64
}

#[test]
fn two_threads_in_one_arena_never_meet() {
    const ROUNDS: usize = 400;
    let pool = ArenaPool::builder()
        .initial_bytes(256)
        .max_arena_bytes(1 << 20)
        .build()
        .unwrap();
    for _ in 0..5 {
        let arena = pool.rent();
        let start = Barrier::new(2);
        thread::scope(|threads| {
            for thread in 1..=2 {
                let (arena, start) = (&arena, &start);
                threads.spawn(move || {
                    start.wait();
                    let mut slices = Vec::new();
                    let mut frozen = Vec::new();
                    let mut list = arena.vec();
                    let mut text = arena.string();
                    for round in 0..ROUNDS {
                        let len = (round * 7 + thread) % 40;
                        let slice =
                            arena.alloc_slice_fill_iter((0..len).map(|at| mark(thread, round, at)));
                        slices.push(slice);
                        list.push(mark(thread, round, 0));
                        text.push(if thread == 1 { 'a' } else { 'b' });
                        if round % 3 == 0 {
                            let mut buf = arena.buf();
                            (0..len).for_each(|at| buf.put_u64(mark(thread, round, at)));
                            frozen.push((round, buf.freeze()));
                        }
                        if round % 5 == 0 {
                            // Gives its memory back, while the other one may be taking some.
                            let mut gone = arena.vec_with_capacity(len);
                            gone.extend((0..len).map(|at| mark(thread + 2, round, at)));
                            frozen.truncate(frozen.len().saturating_sub(1));
                        }
                    }
                    for (round, slice) in slices.iter().enumerate() {
                        for (at, &value) in slice.iter().enumerate() {
                            assert_eq!(value, mark(thread, round, at));
                        }
                    }
                    assert!(
                        list.iter()
                            .copied()
                            .eq((0..ROUNDS).map(|r| mark(thread, r, 0)))
                    );
                    let letter = if thread == 1 { "a" } else { "b" };
                    assert_eq!(&*text, letter.repeat(ROUNDS));
                    for (round, bytes) in &frozen {
                        for (at, value) in bytes.chunks_exact(8).enumerate() {
                            assert_eq!(value, mark(thread, *round, at).to_be_bytes());
                        }
                    }
                });
            }
        });
        drop(arena);
        assert_eq!(pool.stats().rented, 0);
    }
    assert_eq!((pool.stats().misses, pool.stats().hits), (1, 4));
}

#[test]
fn bytes_come_back_from_another_thread_while_arenas_are_rented() {
    let pool = ArenaPool::builder()
        .initial_bytes(512)
        .max_arena_bytes(4096)
        .max_total_bytes(8192)
        .build()
        .unwrap();
    let (sender, receiver) = mpsc::sync_channel::<(u8, Bytes)>(16);
    let reader = thread::spawn(move || {
        let mut read = 0;
        for (mark, bytes) in receiver {
            assert!(bytes.iter().all(|&byte| byte == mark), "overwritten");
            read += bytes.len();
        }
        read
    });
    let writers: Vec<_> = (0..2_usize)
        .map(|writer| {
            let (pool, sender) = (pool.clone(), sender.clone());
            thread::spawn(move || {
                let mut written = 0;
                for round in 0..2000 {
                    let arena = pool.rent();
                    let mark = (writer * 128 + round % 128) as u8;
                    let mut buf = arena.buf();
                    buf.put_bytes(mark, 1 + round % 700);
                    written += buf.len();
                    sender.send((mark, buf.freeze())).unwrap();
                }
                written
            })
        })
        .collect();
    drop(sender);
    let written: usize = writers.into_iter().map(|w| w.join().unwrap()).sum();
    assert_eq!(reader.join().unwrap(), written);
    let stats = pool.stats();
    assert_eq!((stats.rented, stats.rented_bytes), (0, 0));
    assert_eq!(stats.hits + stats.misses, 4000);
    assert!(stats.pooled_bytes <= 8192);
}

#[test]
fn handles_dropped_on_two_threads_return_the_arena_once() {
    let pool = ArenaPool::new();
    for round in 0..500_u64 {
        let arena = pool.rent();
        arena.alloc(round);
        let start = Arc::new(Barrier::new(2));
        let other = thread::spawn({
            let (arena, start) = (arena.clone(), Arc::clone(&start));
            move || {
                start.wait();
                drop(arena);
            }
        });
        start.wait();
        drop(arena);
        other.join().unwrap();
        assert_eq!((pool.stats().rented, pool.stats().pooled), (0, 1));
    }
    assert_eq!((pool.stats().misses, pool.stats().hits), (1, 499));
}
