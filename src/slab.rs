use std::array;

use slab::Slab;

use crate::{
    account::aside,
    sync::{AtomicUsize, Mutex, Ordering, lock},
    thread_number::thread_number,
};

/// The number of shards by default, each with a lock of its own, so that threads seldom contend.
pub(crate) const SHARDS: usize = 8;

/// The initial capacity of all shards together, since a request that makes one grow would be charged for
/// that. An emptied shard shrinks to its part.
const CAPACITY: usize = 2048;

/// The calling thread's shard, a number below [`SHARDS`] that stays the same for its whole life.
#[inline]
pub(crate) fn thread_shard() -> usize {
    thread_number() % SHARDS
}

/// Values that one thread inserts and any thread removes, by key.
#[derive(Debug)]
pub(crate) struct ShardedSlab<T, const COUNT: usize = SHARDS> {
    shards: [Shard<T>; COUNT],
}

/// Aligned so that two shards never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<T>(Mutex<Slab<T>>);

/// The position of a value in a [`ShardedSlab`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(usize);

/// An optional [`Key`] that one thread sets and another one reads later.
#[derive(Debug)]
pub(crate) struct KeySlot(AtomicUsize);

impl KeySlot {
    const EMPTY: usize = usize::MAX;

    pub(crate) fn empty() -> Self {
        Self(AtomicUsize::new(Self::EMPTY))
    }

    pub(crate) fn set(&self, key: Key) {
        // Relaxed: a thread that reads it happens after.
        self.0.store(key.0, Ordering::Relaxed);
    }

    /// The key, for a thread that happens after the one that has set it.
    pub(crate) fn get(&self) -> Option<Key> {
        let key = self.0.load(Ordering::Relaxed);
        (key != Self::EMPTY).then_some(Key(key))
    }

    /// Forgets the key. No other thread sets or takes it meanwhile.
    pub(crate) fn clear(&self) {
        self.0.store(Self::EMPTY, Ordering::Relaxed);
    }
}

/// Inserts into a slab that requests share: the one that makes it grow is not charged for that.
pub(crate) fn insert_shared<T>(slab: &mut Slab<T>, value: T) -> usize {
    if slab.len() == slab.capacity() {
        aside(|| slab.reserve(1));
    }
    slab.insert(value)
}

impl<T, const COUNT: usize> ShardedSlab<T, COUNT> {
    const CAPACITY: usize = CAPACITY / COUNT;

    pub(crate) fn insert(&self, value: T) -> Key {
        let shard = thread_number() % COUNT;
        let mut slab = lock(&self.shards[shard].0);
        Key(insert_shared(&mut slab, value) * COUNT + shard)
    }

    /// Removes a value, if it is there. The caller drops it, after the lock is released.
    pub(crate) fn remove(&self, key: Key) -> Option<T> {
        let mut slab = lock(&self.shards[key.0 % COUNT].0);
        let value = slab.try_remove(key.0 / COUNT);
        if slab.is_empty() && slab.capacity() > Self::CAPACITY {
            aside(|| *slab = Slab::with_capacity(Self::CAPACITY));
        }
        value
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(&shard.0).len()).sum()
    }

    /// Collects what `f` returns for each value. `f` runs under a lock and must not use the slab.
    pub(crate) fn filter_map<R>(&self, mut f: impl FnMut(&T) -> Option<R>) -> Vec<R> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(lock(&shard.0).iter().filter_map(|(_, value)| f(value)));
        }
        found
    }
}

impl<T, const COUNT: usize> Default for ShardedSlab<T, COUNT> {
    fn default() -> Self {
        Self {
            shards: array::from_fn(|_| Shard(Mutex::new(Slab::with_capacity(Self::CAPACITY)))),
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_key_removes_its_own_value_once() {
        let shards = ShardedSlab::<_>::default();
        let keys: Vec<_> = (0..10).map(|n| shards.insert(n)).collect();
        assert_eq!(shards.remove(keys[3]), Some(3));
        assert_eq!(shards.remove(keys[3]), None);
        assert_eq!(shards.len(), 9);
        // Its slot is used again.
        let again = shards.insert(33);
        assert_eq!(again, keys[3]);
        let mut all = shards.filter_map(|n| Some(*n));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 4, 5, 6, 7, 8, 9, 33]);
    }

    #[test]
    fn values_are_removed_on_any_thread() {
        let shards = ShardedSlab::<_>::default();
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
    fn an_emptied_shard_gives_back_what_a_burst_took() {
        let shards = ShardedSlab::<_>::default();
        let keys: Vec<_> = (0..10 * CAPACITY).map(|n| shards.insert(n)).collect();
        for key in keys {
            shards.remove(key);
        }
        for shard in &shards.shards {
            assert!(lock(&shard.0).capacity() <= CAPACITY / SHARDS);
        }
    }

    #[test]
    fn an_empty_slot_has_no_key() {
        let slot = KeySlot::empty();
        assert_eq!(slot.get(), None);
        slot.set(Key(0));
        assert_eq!(slot.get(), Some(Key(0)));
        slot.clear();
        assert_eq!(slot.get(), None);
    }
}
