//! What giving an arena back asks of the allocator: nothing.

use std::{sync::mpsc, thread};

use bytes::Bytes;
use tower_memory::{Arena, ArenaPool};

use super::calls;

fn pool() -> ArenaPool {
    ArenaPool::builder().trim_interval(None).build().unwrap()
}

fn used(pool: &ArenaPool) -> Arena {
    let arena = pool.rent();
    arena.alloc_str("something");
    arena
}

#[test]
fn an_arena_comes_back_without_a_call_of_the_allocator() {
    let pool = pool();
    let arena = used(&pool);
    assert_eq!(calls(|| drop(arena)).1, 0);
    // A thread's own places, and then the shelf.
    let arenas: Vec<Arena> = (0..100).map(|_| used(&pool)).collect();
    for arena in arenas {
        assert_eq!(calls(|| drop(arena)).1, 0);
    }
    assert_eq!((pool.stats().pooled, pool.stats().rented), (100, 0));
    assert_eq!(calls(|| drop(pool.rent())).1, 0, "nor renting a kept one");
}

#[test]
fn the_first_return_on_a_thread_does_not_call_it_either() {
    let pool = pool();
    let arenas: Vec<Arena> = (0..30).map(|_| used(&pool)).collect();
    let made = thread::spawn(move || {
        arenas
            .into_iter()
            .map(|arena| calls(|| drop(arena)).1)
            .collect::<Vec<_>>()
    });
    assert_eq!(made.join().unwrap(), [0; 30]);
    assert_eq!((pool.stats().pooled, pool.stats().rented), (30, 0));
}

#[test]
fn a_thread_without_a_place_of_its_own_returns_without_a_call_too() {
    let pool = pool();
    let threads = thread::available_parallelism().map_or(1, usize::from) * 4;
    let mut holders = Vec::new();
    // More threads than a pool has slots for, all alive.
    for _ in 0..=threads.max(32) {
        let (sender, receiver) = mpsc::channel::<Option<Arena>>();
        let thread = thread::spawn(move || {
            let mut made = 0;
            while let Ok(Some(arena)) = receiver.recv() {
                made += calls(|| drop(arena)).1;
            }
            made
        });
        sender.send(Some(used(&pool))).unwrap();
        holders.push((sender, thread));
    }
    for (sender, _) in &holders {
        sender.send(Some(used(&pool))).unwrap();
        sender.send(None).unwrap();
    }
    for (_, thread) in holders {
        assert_eq!(thread.join().unwrap(), 0);
    }
    assert_eq!(pool.stats().rented, 0);
}

#[test]
fn the_last_of_frozen_bytes_frees_their_owner_and_no_more() {
    let pool = pool();
    let mut buf = pool.buf(1000);
    buf.extend_from_slice(&[1; 257]);
    let (bytes, made): (Bytes, usize) = calls(|| buf.freeze());
    assert_eq!(made, 1, "one small allocation");
    let slice = bytes.slice(1..3);
    drop(bytes);
    assert_eq!(calls(|| drop(slice)).1, 1, "its owner");
    assert_eq!((pool.stats().pooled_buffers, pool.stats().buffers), (1, 0));
}
