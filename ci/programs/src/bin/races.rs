//! The lock-free code under threads, for ThreadSanitizer: `races [ROUNDS]`.
//!
//! Threads rent arenas from two pools, fill them, and pass arenas, buffers and bytes to one another
//! through atomics, so that the sanitizer sees every hand-over. The standard library is not
//! instrumented: a hand-over by its mutex or channels would be reported. So would the housekeeping,
//! whose locks are the standard library's: threads trim the pools themselves.

use std::array;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread;

use bytes::{BufMut, Bytes};
use tower_memory::{Account, Arena, ArenaBuf, ArenaPool, Cursor, TrackingAllocator, account};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const THREADS: u64 = 4;
const PLACES: usize = 8;

/// Places through which threads pass values on.
struct Exchange<T>([AtomicPtr<T>; PLACES]);

impl<T> Exchange<T> {
    fn new() -> Self {
        Self(array::from_fn(|_| AtomicPtr::new(ptr::null_mut())))
    }

    fn swap(&self, at: usize, value: Option<T>) -> Option<T> {
        let new = value.map_or(ptr::null_mut(), |value| Box::into_raw(Box::new(value)));
        let old = self.0[at].swap(new, Ordering::AcqRel);
        // SAFETY: whatever lies in a place came from `into_raw`, and the swap took it out.
        (!old.is_null()).then(|| *unsafe { Box::from_raw(old) })
    }
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 9) as usize % n
    }
}

struct Shared {
    pools: [ArenaPool; 2],
    arenas: Exchange<Arena>,
    bytes: Exchange<Bytes>,
    buffers: Exchange<ArenaBuf>,
    account: Account,
}

fn build(cursor: &mut Cursor<'_>, random: &mut Random) {
    for _ in 0..random.below(30) {
        cursor
            .alloc_str("a text of the cursor")
            .make_ascii_uppercase();
        let mut list = cursor.vec();
        for i in 0..random.below(20) {
            list.push(i);
        }
        assert!(
            list.into_slice()
                .iter()
                .enumerate()
                .all(|(i, value)| i == *value)
        );
    }
}

fn fill(arena: &mut Arena, random: &mut Random) {
    for _ in 0..random.below(20) {
        arena.alloc_slice_fill_iter((0..random.below(200)).map(|i| i as u8));
    }
    if random.below(2) == 0 {
        build(&mut arena.exclusive_cursor(), random);
    } else {
        build(&mut arena.cursor(), random);
    }
    let mut texts = arena.vec();
    for i in 0..random.below(50) {
        texts.push(i.to_string());
    }
}

fn round(shared: &Shared, thread: u64, random: &mut Random) {
    let taken = shared.arenas.swap(random.below(PLACES), None);
    let mut arena = taken.unwrap_or_else(|| shared.pools[random.below(2)].rent());
    fill(&mut arena, random);

    let mut buffer = arena.buf_with_capacity(random.below(100));
    buffer.put_bytes(thread as u8, random.below(300));
    let frozen = buffer.split().freeze();
    buffer.put_slice(&frozen);
    if let Some(other) = shared.bytes.swap(random.below(PLACES), Some(frozen)) {
        let half = other.slice(other.len() / 2..);
        drop(other);
        assert!(half.iter().all(|byte| *byte < 10));
    }
    if let Some(mut other) = shared.buffers.swap(random.below(PLACES), Some(buffer)) {
        other.put_bytes(9, random.below(100));
        drop(other.split());
        other.put_bytes(1, 3);
        shared
            .bytes
            .swap(random.below(PLACES), Some(other.freeze()));
    }

    let at = random.below(PLACES);
    match random.below(5) {
        0 => drop(shared.arenas.swap(at, Some(arena))),
        1 => {
            drop(shared.arenas.swap(at, Some(arena.clone())));
            arena.alloc_str("beside another handle");
        }
        2 => {
            let mut buffer = arena.into_buf(random.below(64));
            buffer.put_bytes(7, random.below(99));
            shared.bytes.swap(at, Some(buffer.freeze()));
        }
        _ => drop(arena),
    }
    if random.below(100) == 0 {
        shared.pools[random.below(2)].trim();
    }
    if random.below(50) == 0 {
        let _ = (
            shared.pools[0].stats(),
            account::process_usage(),
            shared.account.usage(),
        );
    }
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(2000, |rounds| rounds.parse().expect("a number"));
    let small = ArenaPool::builder()
        .trim_interval(None)
        .initial_bytes(512)
        .max_arena_bytes(8192)
        .max_total_bytes(100_000)
        .build();
    let wiping = ArenaPool::builder()
        .trim_interval(None)
        .zero_on_recycle(true)
        .build();
    let shared = &Shared {
        pools: [small.expect("valid"), wiping.expect("valid")],
        arenas: Exchange::new(),
        bytes: Exchange::new(),
        buffers: Exchange::new(),
        account: Account::new(),
    };
    thread::scope(|scope| {
        let start = |thread: u64| {
            scope.spawn(move || {
                let mut random = Random(0x9E37_79B9 ^ (thread << 20));
                for _ in 0..rounds {
                    let _entered = shared.account.enter();
                    round(shared, thread, &mut random);
                }
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        // The sanitizer sees joins, but not how the scope itself waits.
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
    for at in 0..PLACES {
        drop((shared.arenas.swap(at, None), shared.bytes.swap(at, None)));
        drop(shared.buffers.swap(at, None));
    }
    for pool in &shared.pools {
        let stats = pool.stats();
        assert_eq!(stats.rented_bytes, 0, "{stats:?}");
        println!("{stats:?}");
    }
    println!(
        "{THREADS} threads, {rounds} rounds each: {:?}",
        shared.account.usage()
    );
}
