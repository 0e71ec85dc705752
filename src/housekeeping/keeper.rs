//! What is due when, and the sleep until then.
//!
//! # Invariants
//!
//! 1. Nothing due is slept through. The thread writes when it will look again, and then looks at all
//!    shards once more; a caller inserts, and then reads that moment. The lock of the shard orders
//!    the two: either the thread finds the entry, or the caller sees the moment and wakes the thread.
//! 2. A caller that wakes the thread sets `kicked` under the lock that the thread sleeps with.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
    time::{Duration, Instant},
};

use super::queue::{DueQueue, Place};
use crate::{
    slab::thread_shard,
    sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, try_lock},
};

const SHARDS: usize = if cfg!(tower_memory_loom) {
    1
} else {
    crate::slab::SHARDS
};

/// The thread does not look again by itself.
const NEVER: u64 = u64::MAX;
/// The thread is awake, and looks once more before it sleeps.
const AWAKE: u64 = 0;

/// Entries that are taken out of a shard under one lock.
const BATCH: usize = 64;

/// A place in a keeper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    shard: usize,
    place: Place,
}

pub(super) struct Keeper {
    start: Instant,
    /// The process that it works for.
    process: u32,
    shards: [Shard; SHARDS],
    /// When the thread looks next, in nanoseconds since the start, or [`NEVER`], or [`AWAKE`].
    looks_at: AtomicU64,
    kicked: Mutex<bool>,
    wake: Condvar,
    panics: AtomicU64,
}

/// Aligned so that two shards never share a cache line.
#[repr(align(128))]
struct Shard {
    queue: Mutex<DueQueue<Waker>>,
    /// When a thread asked last which process this is. See [`Keeper::is_certain`].
    asked: AtomicU64,
}

/// The shard belongs to another process, of which this one is a child, and may stay locked for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forked;

impl Keeper {
    pub(super) fn new(start: Instant) -> Self {
        let process = std::process::id();
        Self {
            start,
            process,
            shards: std::array::from_fn(|_| Shard {
                // A child's keeper finds nothing under its parent's keys.
                queue: Mutex::new(DueQueue::new(u64::from(process) << 32)),
                asked: AtomicU64::new(0),
            }),
            looks_at: AtomicU64::new(NEVER),
            kicked: Mutex::new(false),
            wake: Condvar::new(),
            panics: AtomicU64::new(0),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        // Never `AWAKE`.
        u64::try_from(since.as_nanos())
            .unwrap_or(NEVER)
            .clamp(1, NEVER - 1)
    }

    pub(super) fn is_of_this_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// Whether this is certainly the process's keeper. The process's id is asked for at most once
    /// per millisecond and shard, since that is a system call.
    ///
    /// So a child may use its parent's keeper for a millisecond after it was forked.
    pub(super) fn is_certain(&self, now: Instant) -> bool {
        const FRESH: u64 = 1_000_000;
        let asked = &self.shards[thread_shard() % SHARDS].asked;
        let now = self.nanos(now);
        // Relaxed: of two threads both may ask.
        if now.saturating_sub(asked.load(Ordering::Relaxed)) < FRESH {
            return true;
        }
        let certain = self.is_of_this_process();
        if certain {
            asked.store(now, Ordering::Relaxed);
        }
        certain
    }

    /// Locks a shard. In a forked child, a thread that does not exist may hold the lock.
    fn shard(&self, shard: usize) -> Result<MutexGuard<'_, DueQueue<Waker>>, Forked> {
        let queue = &self.shards[shard].queue;
        match try_lock(queue) {
            Some(queue) => Ok(queue),
            None if self.is_of_this_process() => Ok(lock(queue)),
            None => Err(Forked),
        }
    }

    /// Has `waker` woken at a moment. Also returns whether the thread has to be [kicked](Self::kick)
    /// for that.
    pub(super) fn insert(&self, at: Instant, waker: &Waker) -> Result<(Key, bool), Forked> {
        let shard = thread_shard() % SHARDS;
        let place = self.shard(shard)?.insert(at, waker.clone());
        // Relaxed: invariant 1.
        let kick = self.nanos(at) < self.looks_at.load(Ordering::Relaxed);
        Ok((Key { shard, place }, kick))
    }

    /// Whether there is an entry for this moment, which now wakes `waker`.
    pub(super) fn renew(&self, key: Key, at: Instant, waker: &Waker) -> bool {
        let mut former = None;
        let renewed = self.shard(key.shard).is_ok_and(|mut queue| {
            queue.get_mut(key.place).is_some_and(|(due, known)| {
                if due == at && !known.will_wake(waker) {
                    former = Some(std::mem::replace(known, waker.clone()));
                }
                due == at
            })
        });
        drop(former);
        renewed
    }

    /// Removes an entry. Returns whether it was there.
    pub(super) fn cancel(&self, key: Key) -> bool {
        // The waker is dropped after the lock is released.
        let waker = self
            .shard(key.shard)
            .ok()
            .and_then(|mut queue| queue.remove(key.place));
        waker.is_some()
    }

    /// Makes the thread look again.
    pub(super) fn kick(&self) {
        *lock(&self.kicked) = true;
        self.wake.notify_one();
    }

    /// Wakes everything that is due.
    pub(super) fn fire(&self, now: Instant) {
        for shard in 0..SHARDS {
            loop {
                let due: Vec<Waker> = match self.shard(shard) {
                    Ok(mut queue) => std::iter::from_fn(|| queue.pop_due(now))
                        .take(BATCH)
                        .collect(),
                    Err(Forked) => return,
                };
                let full = due.len() == BATCH;
                for waker in due {
                    // Chores and wakers run here and, on a thread for them, hooks.
                    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                        // Relaxed: a figure.
                        self.panics.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if !full {
                    break;
                }
            }
        }
    }

    /// When the first entry is due.
    pub(super) fn next(&self) -> Option<Instant> {
        (0..SHARDS)
            .filter_map(|shard| self.shard(shard).ok()?.next())
            .min()
    }

    /// Sleeps until the first entry is due, or until it is kicked. For the thread.
    pub(super) fn sleep(&self, now: Instant) {
        let next = self.next();
        // Relaxed: invariant 1.
        self.looks_at
            .store(next.map_or(NEVER, |at| self.nanos(at)), Ordering::Relaxed);
        let again = self.next();
        if again.is_none_or(|again| next.is_some_and(|next| next <= again)) {
            self.wait(next.map(|at| at.saturating_duration_since(now)));
        }
        // Invariant 1: the shards are looked at after this.
        self.looks_at.store(AWAKE, Ordering::Relaxed);
    }

    fn wait(&self, at_most: Option<Duration>) {
        let mut kicked = lock(&self.kicked);
        match at_most {
            None => {
                while !*kicked {
                    kicked = self.wake.wait(kicked).unwrap_or_else(|e| e.into_inner());
                }
            }
            // May wake too early, as at any time.
            Some(left) if !*kicked && !left.is_zero() => {
                kicked = match self.wake.wait_timeout(kicked, left) {
                    Ok((kicked, _)) => kicked,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
            Some(_) => {}
        }
        *kicked = false;
    }

    /// Entries that wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        (0..SHARDS)
            .filter_map(|shard| Some(self.shard(shard).ok()?.len()))
            .sum()
    }

    /// Panics of what was woken.
    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::{housekeeping::test_waker::woken, sync::Arc};

    /// Invariant 1: the thread goes to sleep while two callers insert. loom's condition variable
    /// never times out, so a missed wake-up is a deadlock.
    #[test]
    fn what_is_inserted_while_the_thread_falls_asleep_is_woken() {
        loom::model(|| {
            let start = Instant::now();
            let keeper = Arc::new(Keeper::new(start));
            let (woken, waker) = woken();
            let insert = {
                let keeper = Arc::clone(&keeper);
                move || {
                    let (_, kick) = keeper.insert(start, &waker).expect("not forked");
                    if kick {
                        keeper.kick();
                    }
                }
            };
            let other = thread::spawn(insert.clone());
            let thread = thread::spawn({
                let woken = Arc::clone(&woken);
                move || {
                    while woken.0.load(Ordering::Relaxed) < 2 {
                        keeper.fire(start);
                        if woken.0.load(Ordering::Relaxed) < 2 {
                            keeper.sleep(start);
                        }
                    }
                }
            });
            insert();
            other.join().expect("no panic");
            thread.join().expect("no panic");
            assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        });
    }
}
