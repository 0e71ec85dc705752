use std::{array, cell::Cell, sync::atomic::AtomicUsize as StdAtomicUsize};

use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// Things are kept in this many parts, each with its own lock, so that threads seldom meet.
pub(crate) const SHARDS: usize = 8;

/// Each part has room for this many from the start, since a request that made it grow would have that
/// on its account. An emptied part gives back what it has beyond.
const KEPT: usize = 256;

/// A number below [`SHARDS`] for the calling thread, the same for its whole life.
pub(crate) fn thread_shard() -> usize {
    // Not a twin of loom's: which part a thread uses is nothing that has to be checked.
    static NEXT: StdAtomicUsize = StdAtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.try_with(|mine| {
        if mine.get() == usize::MAX {
            // Relaxed: only to be different from thread to thread.
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(next % SHARDS);
        }
        mine.get()
    })
    .unwrap_or(0)
}

/// What is alive, to be added on one thread and taken out on any.
#[derive(Debug)]
pub(crate) struct Shards<T> {
    shards: [Shard<T>; SHARDS],
}

/// Aligned so that two threads' parts never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<T> {
    slab: Mutex<Slab<T>>,
}

#[derive(Debug)]
struct Slab<T> {
    places: Vec<Place<T>>,
    /// The first of the free places, each of which knows the next; none if there is no such place.
    free: usize,
    taken: usize,
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    Free { next: usize },
}

/// Where something is in [`Shards`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(usize);

impl Key {
    const NONE: usize = usize::MAX;
}

/// A [`Key`], or none, that one thread writes and another may read later.
#[derive(Debug)]
pub(crate) struct KeySlot(AtomicUsize);

impl KeySlot {
    pub(crate) fn empty() -> Self {
        Self(AtomicUsize::new(Key::NONE))
    }

    pub(crate) fn set(&self, key: Key) {
        // Relaxed: read through `&mut`, so after everything else.
        self.0.store(key.0, Ordering::Relaxed);
    }

    pub(crate) fn take(&mut self) -> Option<Key> {
        // Not a swap, which would lock: nobody else is there.
        let key = self.0.load(Ordering::Relaxed);
        if key == Key::NONE {
            return None;
        }
        self.0.store(Key::NONE, Ordering::Relaxed);
        Some(Key(key))
    }
}

impl<T> Slab<T> {
    fn new() -> Self {
        Self {
            places: Vec::with_capacity(KEPT),
            free: usize::MAX,
            taken: 0,
        }
    }

    fn insert(&mut self, thing: T) -> usize {
        self.taken += 1;
        if let Some(place) = self.places.get_mut(self.free) {
            let at = self.free;
            if let Place::Free { next } = *place {
                self.free = next;
                *place = Place::Taken(thing);
                return at;
            }
        }
        self.places.push(Place::Taken(thing));
        self.places.len() - 1
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        let place = self.places.get_mut(at)?;
        if matches!(place, Place::Free { .. }) {
            return None;
        }
        let former = std::mem::replace(place, Place::Free { next: self.free });
        self.free = at;
        self.taken -= 1;
        if self.taken == 0 && self.places.capacity() > KEPT {
            *self = Self::new();
        }
        match former {
            Place::Taken(thing) => Some(thing),
            Place::Free { .. } => None,
        }
    }
}

impl<T> Shards<T> {
    pub(crate) fn new() -> Self {
        Self {
            shards: array::from_fn(|_| Shard {
                slab: Mutex::new(Slab::new()),
            }),
        }
    }

    pub(crate) fn insert(&self, thing: T) -> Key {
        let shard = thread_shard();
        let [first, ..] = &self.shards;
        let slab = &self.shards.get(shard).unwrap_or(first).slab;
        Key(lock(slab).insert(thing) * SHARDS + shard)
    }

    /// Takes a thing out; its drop is the caller's, after the lock.
    pub(crate) fn remove(&self, key: Key) -> Option<T> {
        let shard = self.shards.get(key.0 % SHARDS)?;
        lock(&shard.slab).remove(key.0 / SHARDS)
    }

    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.slab).taken)
            .sum()
    }

    /// What `f` makes of each thing. `f` runs under a lock: it may not come back here.
    pub(crate) fn filter_map<R>(&self, mut f: impl FnMut(&T) -> Option<R>) -> Vec<R> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let slab = lock(&shard.slab);
            found.extend(slab.places.iter().filter_map(|place| match place {
                Place::Taken(thing) => f(thing),
                Place::Free { .. } => None,
            }));
        }
        found
    }
}

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_out_its_own_thing_once() {
        let shards = Shards::new();
        let keys: Vec<_> = (0..10).map(|n| shards.insert(n)).collect();
        assert_eq!(shards.remove(keys[3]), Some(3));
        assert_eq!(shards.remove(keys[3]), None);
        assert_eq!(shards.len(), 9);
        // Its place is used again.
        let again = shards.insert(33);
        assert_eq!(again, keys[3]);
        let mut all = shards.filter_map(|n| Some(*n));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 4, 5, 6, 7, 8, 9, 33]);
    }

    #[test]
    fn things_are_taken_out_on_any_thread() {
        let shards = Shards::new();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads = [0, 1, 2].map(|n| {
                scope.spawn({
                    let shards = &shards;
                    move || shards.insert(n)
                })
            });
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (n, key) in keys.into_iter().enumerate() {
            assert_eq!(shards.remove(key), Some(n));
        }
        assert_eq!(shards.len(), 0);
    }

    #[test]
    fn an_emptied_part_gives_back_what_a_burst_took() {
        let shards = Shards::new();
        let keys: Vec<_> = (0..10 * KEPT).map(|n| shards.insert(n)).collect();
        for key in keys {
            shards.remove(key);
        }
        for shard in &shards.shards {
            assert!(lock(&shard.slab).places.capacity() <= KEPT);
        }
    }

    #[test]
    fn an_empty_slot_has_no_key() {
        let mut slot = KeySlot::empty();
        assert_eq!(slot.take(), None);
        slot.set(Key(0));
        assert_eq!(slot.take(), Some(Key(0)));
        assert_eq!(slot.take(), None);
    }
}
