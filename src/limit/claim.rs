//! One request's part of the sums, and its place among the candidates for a cancellation.
//!
//! # Invariants
//!
//! 1. A request is in the list of candidates only while it is open. Its thread marks `held` under the lock of
//!    `place`, and inserts before it releases the lock; the close takes the mark with the value, and then
//!    locks `place` if it was marked. So it finds what was inserted, or the mark was refused.

use super::sums::{Last, Part};
use crate::{
    slab::Key,
    sync::{AtomicU64, Mutex, Ordering::Relaxed, SetMut, lock},
};

/// What a scope keeps for the limit of the process.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Marked if it is a guess, since nothing was known of the route.
    pub(super) reserved: Part,
    /// What the request held when that was last looked at.
    pub(super) held: Part,
    place: Mutex<Place>,
    /// What the request may hold, if that is only counted; `u64::MAX` otherwise.
    watched_limit: AtomicU64,
}

/// A place among the candidates.
#[derive(Debug, Clone, Copy)]
enum Place {
    Unlisted,
    Listed(Key),
    /// It would have been cancelled.
    Counted(Key),
}

impl Claim {
    /// Of no open request.
    pub(crate) fn closed() -> Self {
        Self {
            reserved: Part::closed(),
            held: Part::closed(),
            place: Mutex::new(Place::Unlisted),
            watched_limit: AtomicU64::new(u64::MAX),
        }
    }

    /// Whether the request is listed as a candidate.
    pub(crate) fn is_listed(&self) -> bool {
        self.held.is_marked()
    }

    /// Sets what the request may hold, which is only counted.
    pub(crate) fn watch_limit(&self, bytes: u64) {
        self.watched_limit.store(bytes, Relaxed);
    }

    pub(crate) fn watched_limit(&self) -> Option<u64> {
        Some(self.watched_limit.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// What it may hold, which is only counted, once.
    #[inline]
    pub(super) fn take_watched_limit(&self) -> Option<u64> {
        // Most requests have none, and write nothing.
        let bytes = self.watched_limit.load(Relaxed);
        (bytes != u64::MAX).then(|| self.watched_limit.swap(u64::MAX, Relaxed))
    }

    /// Whether it would have been cancelled, see [`count`](Self::count). Not for code under the lock of the list.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(*lock(&self.place), Place::Counted(_))
    }

    /// The request would have been cancelled, which is counted once.
    pub(crate) fn count(&self) {
        let mut place = lock(&self.place);
        if let Place::Listed(key) = *place {
            *place = Place::Counted(key);
        }
    }

    /// Starts again, between two requests: a handle that was kept may have set a limit after the close.
    #[inline]
    pub(crate) fn reset(&mut self) {
        self.watched_limit.set_mut(u64::MAX);
    }

    /// Of a request that has reserved so much.
    #[inline]
    pub(super) fn open(&self, reserved: u64, guessed: bool) {
        self.reserved.open(reserved, guessed);
        self.held.open(0, false);
    }

    /// Lists the request as a candidate, unless it is listed or closed.
    #[cold]
    pub(super) fn list(&self, insert: impl FnOnce() -> Key) {
        let mut place = lock(&self.place);
        if self.held.mark() {
            *place = Place::Listed(insert());
        }
    }

    /// Closes both parts, and takes the request from the list. Returns what it had reserved and held.
    ///
    /// `is_alone` says that no other thread has the request.
    #[inline]
    pub(super) fn close(&self, is_alone: bool, remove: impl FnOnce(Key)) -> (Last, u64) {
        let reserved = self.reserved.close(is_alone);
        let held = self.held.close(is_alone);
        if held.marked {
            self.unlist(remove);
        }
        (reserved, held.value)
    }

    #[cold]
    fn unlist(&self, remove: impl FnOnce(Key)) {
        let place = std::mem::replace(&mut *lock(&self.place), Place::Unlisted);
        if let Place::Listed(key) | Place::Counted(key) = place {
            remove(key);
        }
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::slab::ShardedSlab;

    /// A thread that looks for a victim holds what it finds, also if the request ends meanwhile. Then the next
    /// request of the same scope counts for itself.
    #[test]
    fn a_victim_that_ends_while_it_is_counted_is_neither_listed_nor_counted_any_more() {
        loom::model(|| {
            let claim = Arc::new(Claim::closed());
            let list = Arc::new(ShardedSlab::<std::sync::Arc<u8>>::default());
            claim.open(10, false);
            let victim = std::sync::Arc::new(1);
            claim.list(|| list.insert(std::sync::Arc::clone(&victim)));
            let looking = thread::spawn({
                let (claim, list) = (Arc::clone(&claim), Arc::clone(&list));
                move || {
                    let found = list.filter_map(|victim| Some(std::sync::Arc::clone(victim)));
                    if !found.is_empty() && !claim.is_counted() {
                        claim.count();
                    }
                }
            });
            claim.close(false, |key| drop(list.remove(key)));
            looking.join().expect("no panic");
            assert_eq!(list.len(), 0);
            assert_eq!(std::sync::Arc::strong_count(&victim), 1);
            assert!(!claim.is_counted());
        });
    }

    /// Invariant 1: a request is listed while it closes.
    #[test]
    fn a_request_that_is_listed_while_it_closes_is_not_left_in_the_list() {
        loom::model(|| {
            let claim = Arc::new(Claim::closed());
            let list = Arc::new(ShardedSlab::<u8>::default());
            claim.open(10, false);
            let listing = thread::spawn({
                let (claim, list) = (Arc::clone(&claim), Arc::clone(&list));
                move || claim.list(|| list.insert(1))
            });
            let (reserved, held) = claim.close(false, |key| {
                assert_eq!(list.remove(key), Some(1));
            });
            assert_eq!((reserved.value, held), (10, 0));
            listing.join().expect("no panic");
            assert_eq!(list.len(), 0);
        });
    }
}
