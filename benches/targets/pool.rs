//! `pool/rent_*`: an arena rented from a pool, used for a few values, and returned.

use std::{
    hint::black_box,
    sync::{Mutex, PoisonError, RwLock, atomic::AtomicUsize},
};

use bump_scope::{BumpPool, BumpPoolGuard, Checkpoint};
use bumpalo::Bump;
use bumpalo_herd::Herd;
use crossbeam_queue::ArrayQueue;
use tower_memory::{Arena, ArenaPool};

use crate::{
    harness::{Contest, Report, Samples, Target, measure},
    sides::{Side, meet, pause, timed},
};

/// Room in the peers' queue; fewer arenas ever wait.
const WAITING: usize = 128;

/// Lifecycles between two resets of a `Herd` that two threads share.
const HERD_BATCH: u64 = 256;

/// The work: `count` values of 40 bytes.
#[inline(always)]
fn fill(bump: &Bump, count: u64) {
    for i in 0..count {
        black_box(bump.alloc([i; 5]));
    }
}

#[inline(always)]
fn fill_ours(arena: &mut Arena, count: u64) {
    let mut cursor = arena.exclusive_cursor();
    for i in 0..count {
        black_box(cursor.alloc([i; 5]));
    }
}

/// Bumps behind a lock of the standard library.
#[derive(Default)]
struct StdMutex(Mutex<Vec<Bump>>);

impl StdMutex {
    fn take(&self) -> Bump {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        waiting.unwrap_or_default()
    }

    fn give(&self, mut bump: Bump) {
        bump.reset();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(bump);
    }
}

/// Bumps behind a lock of `parking_lot`.
#[derive(Default)]
struct ParkingLot(parking_lot::Mutex<Vec<Bump>>);

impl ParkingLot {
    fn take(&self) -> Bump {
        let waiting = self.0.lock().pop();
        waiting.unwrap_or_default()
    }

    fn give(&self, mut bump: Bump) {
        bump.reset();
        self.0.lock().push(bump);
    }
}

/// Bumps in a queue without a lock.
struct Queue(ArrayQueue<Box<Bump>>);

impl Queue {
    fn new() -> Self {
        Self(ArrayQueue::new(WAITING))
    }

    fn take(&self) -> Box<Bump> {
        self.0.pop().unwrap_or_default()
    }

    fn give(&self, mut bump: Box<Bump>) {
        bump.reset();
        drop(self.0.push(bump));
    }
}

/// A guard of a `BumpPool`, and where its bump was when it was taken.
struct Scoped<'p> {
    guard: BumpPoolGuard<'p>,
    start: Checkpoint,
}

// SAFETY: the checkpoint is a place in the guard's bump, goes with it, and is used together with it.
unsafe impl Send for Scoped<'_> {}

impl<'p> Scoped<'p> {
    fn take(pool: &'p BumpPool, count: u64) -> Self {
        let guard = pool.get();
        let start = guard.checkpoint();
        for i in 0..count {
            black_box(guard.alloc([i; 5]).into_mut());
        }
        Self { guard, start }
    }

    /// The pool's user resets a bump before it returns it.
    fn give(self) {
        // SAFETY: of the same bump; no value allocated since is used any more.
        unsafe { self.guard.reset_to(self.start) };
    }
}

/// A `Herd` is reset as a whole, while none of its members is in use. One thread does that each time; two
/// threads do it together, once per batch and outside of the measured time.
fn herd(threads: usize, count: u64) -> Side<'static> {
    let label = "bumpalo-herd";
    if threads == 1 {
        let mut herd = Herd::new();
        return Side::single(label, move || {
            fill(herd.get().as_bump(), count);
            herd.reset();
        });
    }
    let (herd, arrived) = (RwLock::new(Herd::new()), AtomicUsize::new(0));
    Side::pair(label, 2.0, move |nth, n, ready| {
        ready();
        let (mut used, mut left) = (0.0, n);
        while left > 0 {
            let batch = left.min(HERD_BATCH);
            meet(&arrived, pause);
            let members = herd.read().unwrap_or_else(PoisonError::into_inner);
            used += timed(|| {
                for _ in 0..batch {
                    fill(members.get().as_bump(), count);
                }
            });
            drop(members);
            meet(&arrived, pause);
            if nth == 0 {
                herd.write().unwrap_or_else(PoisonError::into_inner).reset();
            }
            left -= batch;
        }
        used
    })
}

fn compare<const N: usize>(
    report: &mut Report,
    rows: [&str; N],
    ours: &Samples,
    peers: [&Samples; N],
    target: Target,
) {
    for (row, peer) in rows.into_iter().zip(peers) {
        report.compare(row, ours, peer, target);
    }
}

/// Rented and returned by the same thread, on one thread or on two at the same time.
fn recycled(count: u64, threads: usize) -> Contest {
    let name = format!("pool/rent_{count}x40B_recycle/{threads}_thread");
    let rows = [
        "Mutex_Vec_Bump",
        "parking_lot_Mutex_Vec_Bump",
        "ArrayQueue_Box_Bump",
        "bump-scope_BumpPool",
        "bumpalo-herd",
        "fresh_Bump",
        "shared_Arena/Mutex_Vec_Bump",
        "shared_Arena/fresh_Bump",
    ];
    Contest::new(
        rows.map(|peer| format!("{name}/{peer}")),
        move |report: &mut Report, [rows @ .., shared_row, shared_fresh_row]| {
            let pool = ArenaPool::new();
            let (std, parking_lot, queue) =
                (StdMutex::default(), ParkingLot::default(), Queue::new());
            let scopes: BumpPool = BumpPool::new();
            let [ours, shared, std, parking_lot, queue, scopes, herd, fresh] = measure([
                Side::on(threads, "ArenaPool", || {
                    || fill_ours(&mut pool.rent(), count)
                }),
                Side::on(threads, "ArenaPool, &Arena", || {
                    || {
                        let arena = pool.rent();
                        for i in 0..count {
                            black_box(arena.alloc([i; 5]));
                        }
                    }
                }),
                Side::on(threads, "Mutex<Vec<Bump>>", || {
                    || {
                        let bump = std.take();
                        fill(&bump, count);
                        std.give(bump);
                    }
                }),
                Side::on(threads, "parking_lot Mutex<Vec<Bump>>", || {
                    || {
                        let bump = parking_lot.take();
                        fill(&bump, count);
                        parking_lot.give(bump);
                    }
                }),
                Side::on(threads, "ArrayQueue<Box<Bump>>", || {
                    || {
                        let bump = queue.take();
                        fill(&bump, count);
                        queue.give(bump);
                    }
                }),
                Side::on(threads, "BumpPool", || {
                    || Scoped::take(&scopes, count).give()
                }),
                herd(threads, count),
                Side::on(threads, "fresh Bump", || || fill(&Bump::new(), count)),
            ]);
            // With one value, the row shows the pool alone and has no target.
            let target = if count == 10 {
                Target::Below(1.0)
            } else {
                Target::None
            };
            let peers = [&std, &parking_lot, &queue, &scopes, &herd, &fresh];
            compare(report, rows, &ours, peers, target);
            report.compare(shared_row, &shared, &std, Target::None);
            report.compare(shared_fresh_row, &shared, &fresh, Target::None);
        },
    )
}

/// Which thread returns an arena.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One thread only rents, the other one only returns.
    HandedOver,
    /// Both rent, and each returns the other's arenas.
    Exchanged,
}

impl Way {
    fn side<'a, T: Send + 'a>(
        self,
        label: &'static str,
        take: impl Fn() -> T + Sync + 'a,
        give: impl Fn(T) + Sync + 'a,
    ) -> Side<'a> {
        match self {
            Self::HandedOver => Side::handed_over(label, take, give),
            Self::Exchanged => Side::exchanged(label, take, give),
        }
    }
}

/// Rented by one thread, returned by another one, through a queue that is the same for all candidates.
///
/// `Herd` is left out: one of its members is always in use, so it can never be reset. The guards of a
/// `BumpPool` borrow it, so they can only move to threads that end before it.
fn elsewhere(way: Way) -> Contest {
    const COUNT: u64 = 10;
    let name = match way {
        Way::HandedOver => "returned_by_another_thread",
        Way::Exchanged => "returned_by_each_other",
    };
    let rows = [
        "Mutex_Vec_Bump",
        "parking_lot_Mutex_Vec_Bump",
        "ArrayQueue_Box_Bump",
        "bump-scope_BumpPool",
        "fresh_Bump",
        "shared_Arena/fresh_Bump",
    ];
    Contest::new(
        rows.map(|peer| format!("pool/rent_{COUNT}x40B_recycle/{name}/{peer}")),
        move |report: &mut Report, [rows @ .., shared_row]| {
            let pool = ArenaPool::new();
            let (std, parking_lot, queue) =
                (StdMutex::default(), ParkingLot::default(), Queue::new());
            let scopes: BumpPool = BumpPool::new();
            let filled = |bump: Bump| {
                fill(&bump, COUNT);
                bump
            };
            let [ours, shared, std, parking_lot, queue, scopes, fresh] = measure([
                way.side(
                    "ArenaPool",
                    || {
                        let mut arena = pool.rent();
                        fill_ours(&mut arena, COUNT);
                        arena
                    },
                    drop,
                ),
                way.side(
                    "ArenaPool, &Arena",
                    || {
                        let arena = pool.rent();
                        for i in 0..COUNT {
                            black_box(arena.alloc([i; 5]));
                        }
                        arena
                    },
                    drop,
                ),
                way.side(
                    "Mutex<Vec<Bump>>",
                    || filled(std.take()),
                    |bump| std.give(bump),
                ),
                way.side(
                    "parking_lot Mutex<Vec<Bump>>",
                    || filled(parking_lot.take()),
                    |bump| parking_lot.give(bump),
                ),
                way.side(
                    "ArrayQueue<Box<Bump>>",
                    || {
                        let bump = queue.take();
                        fill(&bump, COUNT);
                        bump
                    },
                    |bump| queue.give(bump),
                ),
                way.side("BumpPool", || Scoped::take(&scopes, COUNT), Scoped::give),
                way.side("fresh Bump", || filled(Bump::new()), drop),
            ]);
            let peers = [&std, &parking_lot, &queue, &scopes, &fresh];
            compare(report, rows, &ours, peers, Target::Below(1.0));
            report.compare(shared_row, &shared, &fresh, Target::None);
        },
    )
}

/// The cost of a pool that is not the first one its thread used.
fn second() -> Contest {
    Contest::new(
        ["pool/rent_10x40B_recycle/second_pool/first_pool".to_owned()],
        |report: &mut Report, [row]| {
            let (first, second) = (ArenaPool::new(), ArenaPool::new());
            drop(first.rent());
            let [second, first] = measure([
                Side::single("second pool", || fill_ours(&mut second.rent(), 10)),
                Side::single("first pool", || fill_ours(&mut first.rent(), 10)),
            ]);
            report.compare(row, &second, &first, Target::Below(1.1));
        },
    )
}

/// A pool of a thread that has used others before: one that has closed, and three that have not. So a row
/// does not depend on the rows before it.
fn after_others() -> Contest {
    Contest::new(
        ["pool/rent_10x40B_recycle/after_others/Mutex_Vec_Bump".to_owned()],
        |report: &mut Report, [row]| {
            let [closed, open @ ..]: [ArenaPool; 4] = std::array::from_fn(|_| ArenaPool::new());
            for other in open.iter().chain([&closed]) {
                drop(other.rent());
            }
            drop(closed);
            let (pool, std) = (ArenaPool::new(), StdMutex::default());
            let [ours, std] = measure([
                Side::single("ArenaPool", || fill_ours(&mut pool.rent(), 10)),
                Side::single("Mutex<Vec<Bump>>", || {
                    let bump = std.take();
                    fill(&bump, 10);
                    std.give(bump);
                }),
            ]);
            report.compare(row, &ours, &std, Target::Below(1.0));
        },
    )
}

/// An arena that is rented and not used.
fn unused() -> Contest {
    Contest::new(
        ["pool/rent_unused_recycle/fresh_Arena".to_owned()],
        |report: &mut Report, [row]| {
            let pool = ArenaPool::new();
            let [ours, fresh] = measure([
                Side::single("ArenaPool", || drop(black_box(pool.rent()))),
                Side::single("Arena::new()", || drop(black_box(Arena::new()))),
            ]);
            report.compare(row, &ours, &fresh, Target::None);
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        recycled(10, 1),
        recycled(10, 2),
        elsewhere(Way::HandedOver),
        elsewhere(Way::Exchanged),
        recycled(1, 1),
        recycled(1, 2),
        second(),
        after_others(),
        unused(),
    ]);
}
