//! A shared value whose references are not all counted on one cache line.
//!
//! Each request takes references to what its layer has. With one `Arc`, all threads would write the line of
//! its count. Here the references of a thread are counted in the thread's *shard*, which is an `Arc` of its
//! own. The owners keep the shards, and a shard keeps the value, so the value ends with its last reference.

use std::{
    fmt,
    num::NonZero,
    ops::Deref,
    sync::{OnceLock, Weak},
    thread::available_parallelism,
};

use crate::{sync::Arc, thread_number::thread_number};

/// Maximum number of shards, each of which takes 256 bytes.
const MAX_SHARDS: usize = 64;

/// Owns a value and the shards of its references.
pub(crate) struct Sharded<T> {
    value: Arc<T>,
    /// As many as a power of two.
    shards: Box<[Arc<Shard<T>>]>,
}

/// References that are counted here. The count of an `Arc` precedes the value, so the alignment keeps what
/// requests read off the line that they write.
#[repr(align(128))]
pub(crate) struct Shard<T> {
    value: Arc<T>,
    index: usize,
    /// One less than there are shards.
    mask: usize,
    /// All shards, set when they have been made.
    siblings: OnceLock<Box<[Weak<Self>]>>,
}

/// A reference: an owner's, or one that is counted in a shard. A clone is counted in the thread's shard.
pub(crate) enum ShardedRef<T> {
    Owner(Arc<Sharded<T>>),
    Counted(Arc<Shard<T>>),
}

impl<T> Sharded<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        let threads = available_parallelism().map_or(1, NonZero::get);
        Self::with_shards(value, threads.next_power_of_two().min(MAX_SHARDS))
    }

    fn with_shards(value: Arc<T>, count: usize) -> Self {
        let shards: Box<[_]> = (0..count)
            .map(|index| {
                Arc::new(Shard {
                    value: Arc::clone(&value),
                    index,
                    mask: count - 1,
                    siblings: OnceLock::new(),
                })
            })
            .collect();
        for shard in &shards {
            let siblings = shards.iter().map(Arc::downgrade);
            shard.siblings.get_or_init(|| siblings.collect());
        }
        Self { value, shards }
    }

    /// The calling thread's shard.
    #[inline]
    pub(crate) fn here(&self) -> &Arc<Shard<T>> {
        &self.shards[thread_number() & (self.shards.len() - 1)]
    }
}

impl<T> Shard<T> {
    /// The value as an `Arc`, whose own count is for references that are seldom made.
    #[inline]
    pub(crate) const fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// Returns a reference to the calling thread's shard, or to this one if the owners are gone.
    #[inline]
    fn clone_here(self: &Arc<Self>) -> Arc<Self> {
        let here = thread_number() & self.mask;
        if here == self.index {
            Arc::clone(self)
        } else {
            self.clone_of(here)
        }
    }

    #[inline(never)]
    fn clone_of(self: &Arc<Self>, index: usize) -> Arc<Self> {
        let sibling = self.siblings.get().and_then(|siblings| siblings.get(index));
        let sibling = sibling.and_then(Weak::upgrade);
        sibling.unwrap_or_else(|| Arc::clone(self))
    }
}

impl<T> Deref for Shard<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for Sharded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for ShardedRef<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self {
            Self::Owner(owner) => &owner.value,
            Self::Counted(shard) => &shard.value,
        }
    }
}

impl<T> Clone for ShardedRef<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self::Counted(match self {
            Self::Owner(owner) => Arc::clone(owner.here()),
            Self::Counted(shard) => shard.clone_here(),
        })
    }
}

impl<T: fmt::Debug> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: fmt::Debug> fmt::Debug for ShardedRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    const SHARDS: usize = 8;

    fn shards<T>(owner: &Sharded<T>) -> Vec<usize> {
        let others = |shard: &Arc<Shard<T>>| Arc::strong_count(shard) - 1;
        owner.shards.iter().map(others).collect()
    }

    fn counted<T>(reference: &ShardedRef<T>) -> &Arc<Shard<T>> {
        match reference {
            ShardedRef::Counted(shard) => shard,
            ShardedRef::Owner(_) => panic!("a clone is counted in a shard"),
        }
    }

    #[test]
    fn threads_count_their_references_in_shards_of_their_own() {
        let owner = Arc::new(Sharded::with_shards(Arc::new(7), SHARDS));
        let first = ShardedRef::Owner(Arc::clone(&owner)).clone();
        let here = thread_number() % SHARDS;
        assert_eq!(counted(&first).index, here);
        let (sender, clones) = mpsc::channel();
        // All at the same time, so that each has a number of its own.
        let (done, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (first, sender, wait) = (first.clone(), sender.clone(), Arc::clone(&wait));
                thread::spawn(move || {
                    let clone = first.clone();
                    drop(first);
                    let own = thread_number() % SHARDS;
                    sender.send((clone, own)).expect("it is received");
                    let _ = wait.lock().map(|wait| wait.recv());
                })
            })
            .collect();
        for (clone, own) in clones.iter().take(3) {
            assert_eq!((*clone, counted(&clone).index), (7, own));
        }
        drop(done);
        for thread in threads {
            thread.join().expect("no panic");
        }
        let mut expected = vec![0; SHARDS];
        expected[here] = 1;
        assert_eq!(shards(&owner), expected);
    }

    #[test]
    fn the_value_ends_with_its_last_reference() {
        let value = Arc::new(());
        let owner = Arc::new(Sharded::with_shards(Arc::clone(&value), SHARDS));
        let clone = ShardedRef::Owner(owner).clone();
        // The owner is gone, and with it the shards without references.
        assert_eq!(Arc::strong_count(&value), 2);
        let elsewhere = thread::spawn({
            let clone = clone.clone();
            move || clone.clone()
        });
        let elsewhere = elsewhere.join().expect("no panic");
        drop(clone);
        assert_eq!(Arc::strong_count(&value), 2);
        drop(elsewhere);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
