//! Which slots of a pool belong to the calling thread.

use std::{borrow::Borrow, cell::RefCell};

use super::{shared::Shared, slots::Slots};
use crate::sync::{Arc, Ordering};

/// Pools a thread has slots of at once. With more of them, the oldest gives way.
const POOLS: usize = 4;

thread_local! {
    static LOCAL: RefCell<Local> = const { RefCell::new(Local { entries: [const { None }; POOLS] }) };
}

struct Local {
    /// The one found last is the first.
    entries: [Option<Entry>; POOLS],
}

/// The calling thread's slots of one pool; given back when it ends.
struct Entry {
    shared: Arc<Shared>,
    index: usize,
}

impl Entry {
    fn slots(&self) -> Option<&Slots> {
        self.shared.slots().get(self.index)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(slots) = self.slots() {
            self.shared.leave(slots);
        }
    }
}

/// Calls `f` with the calling thread's slots of `pool`, which it gets if it has none yet.
///
/// Without slots if all are taken, or the thread is at its very end. The pool that `f` gets beside the
/// slots is kept alive by this thread.
#[inline]
pub(super) fn with<P, R>(pool: P, f: impl FnOnce(P, Option<(&Arc<Shared>, &Slots)>) -> R) -> R
where
    P: Borrow<Arc<Shared>>,
{
    let mut job = Some((pool, f));
    let done = LOCAL.try_with(|local| {
        let borrowed = local.try_borrow().ok()?;
        let (pool, _) = job.as_ref()?;
        let [Some(first), ..] = &borrowed.entries else {
            return None;
        };
        if !Arc::ptr_eq(&first.shared, pool.borrow()) {
            return None;
        }
        let slots = first.slots()?;
        let (pool, f) = job.take()?;
        Some(f(pool, Some((&first.shared, slots))))
    });
    match (done, job) {
        (Ok(Some(done)), _) => done,
        (_, Some((pool, f))) => slow(pool, f),
        (_, None) => unreachable!("the job is taken only where it is done"),
    }
}

#[cold]
#[inline(never)]
fn slow<P, R>(pool: P, f: impl FnOnce(P, Option<(&Arc<Shared>, &Slots)>) -> R) -> R
where
    P: Borrow<Arc<Shared>>,
{
    // Dropped at the end, outside of the borrow: that may free a pool.
    let mut left: [Option<Entry>; POOLS] = [const { None }; POOLS];
    let mut job = Some((pool, f));
    let done = LOCAL.try_with(|local| {
        let mut borrowed = local.try_borrow_mut().ok()?;
        let (pool, _) = job.as_ref()?;
        let pool: &Arc<Shared> = pool.borrow();
        let entries = &mut borrowed.entries;
        for (entry, left) in entries.iter_mut().zip(&mut left) {
            // Relaxed: one that closes this moment is left the next time.
            if entry
                .as_ref()
                .is_some_and(|entry| entry.shared.closed.load(Ordering::Relaxed))
            {
                *left = entry.take();
            }
        }
        let known = entries.iter().position(|entry| {
            entry
                .as_ref()
                .is_some_and(|entry| Arc::ptr_eq(&entry.shared, pool))
        });
        let place = match known {
            Some(place) => place,
            None => {
                // It keeps nothing any more, so this thread need not keep it.
                if pool.closed.load(Ordering::Relaxed) {
                    return None;
                }
                let index = pool.slots().iter().position(Slots::claim)?;
                let entry = Entry {
                    shared: Arc::clone(pool),
                    index,
                };
                let last = entries.len() - 1;
                let place = entries.iter().position(Option::is_none).unwrap_or(last);
                let old = entries.get_mut(place)?.replace(entry);
                // A pool that is closed left this place empty, so only one of the two is there.
                if let (Some(left), Some(old)) = (left.get_mut(place), old) {
                    *left = Some(old);
                }
                place
            }
        };
        entries.get_mut(..=place)?.rotate_right(1);
        let first = entries.first()?.as_ref()?;
        let slots = first.slots()?;
        let (pool, f) = job.take()?;
        Some(f(pool, Some((&first.shared, slots))))
    });
    match (done, job) {
        (Ok(Some(done)), _) => done,
        (_, Some((pool, f))) => f(pool, None),
        (_, None) => unreachable!("the job is taken only where it is done"),
    }
}
