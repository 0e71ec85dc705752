//! Pools that end while their arenas are out.

use std::{
    sync::{atomic::Ordering::Relaxed, mpsc},
    thread,
};

use tower_memory::{Arena, ArenaPool};

use super::{CHUNKS, COUNTED, FREED, MADE};

/// Nothing else here asks for so much, so chunks of these pools can be counted.
const ODD: usize = 10_288;

const ROUNDS: usize = 150;
const ARENAS: usize = 6;

fn pool() -> ArenaPool {
    ArenaPool::builder().initial_bytes(ODD).build().unwrap()
}

/// The bytes that the allocator is asked for, for the chunk of an arena.
fn chunk_bytes() -> usize {
    let before = CHUNKS.get();
    let arena = pool().rent();
    arena.alloc(1_u8);
    let (_, bytes) = CHUNKS
        .get()
        .into_iter()
        .find(|chunk| !before.contains(chunk))
        .unwrap();
    bytes
}

/// Rents, sends and returns arenas of pools whose handles are dropped meanwhile, on two threads at once.
fn end_pools() {
    let (sender, receiver) = mpsc::sync_channel::<Arena>(16);
    let returner = thread::spawn(move || {
        for arena in receiver {
            // On threads that have slots, and on some that have none yet.
            if arena.allocated_bytes() % 2 == 0 {
                drop(arena);
            } else {
                thread::spawn(move || drop(arena)).join().unwrap();
            }
        }
    });
    for round in 0..ROUNDS {
        let pool = pool();
        let out: Vec<Arena> = (0..ARENAS).map(|_| pool.rent()).collect();
        for (n, arena) in out.into_iter().enumerate() {
            arena.alloc_slice_fill_iter((0..1 + (round + n) % 100).map(|_| 1_u8));
            if n % 3 == 0 {
                drop(arena);
            } else {
                sender.send(arena).unwrap();
            }
        }
        let (first, second) = (pool.clone(), pool);
        let other = thread::spawn(move || drop(first));
        drop(second);
        other.join().unwrap();
    }
    drop(sender);
    returner.join().unwrap();
}

#[test]
fn pools_that_end_while_arenas_come_back_leave_nothing_behind() {
    // Not on this thread: what a pool that closes misses is freed when the thread ends that has it.
    let bytes = thread::spawn(chunk_bytes).join().unwrap();
    COUNTED.store(bytes, Relaxed);
    thread::spawn(end_pools).join().unwrap();
    let made = MADE.load(Relaxed);
    assert_eq!(made, ROUNDS * ARENAS, "each pool made its own");
    assert_eq!(
        FREED.load(Relaxed),
        made,
        "chunks of {bytes} bytes are left"
    );
}
