use std::fmt;

use super::retention::Retention;
use crate::{
    arena::{Home, IdleArena},
    sync::{Mutex, lock},
};

/// Most arenas that wait at once, whatever their size; room for them is taken in advance, so that
/// putting one back never allocates.
const MAX_WAITING: usize = 1024;

/// The waiting arenas and the figures, behind one lock that is held for a few instructions: memory
/// is taken and freed outside.
pub(super) struct Shelf {
    retention: Retention,
    state: Mutex<State>,
}

struct State {
    waiting: Vec<IdleArena>,
    stats: PoolStats,
}

/// Figures of an [`ArenaPool`](super::ArenaPool), in the words of Kestrel's memory pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Arenas that wait to be used again.
    pub pooled: usize,
    /// Bytes they keep.
    pub pooled_bytes: usize,
    /// Arenas in use.
    pub rented: usize,
    /// Bytes those have taken from the system.
    pub rented_bytes: usize,
    /// Bytes given back to the system so far, because they were above what may be kept.
    pub evicted_bytes: u64,
    /// How often an arena was taken from those waiting.
    pub hits: u64,
    /// How often none was waiting and a new one was made.
    pub misses: u64,
}

impl PoolStats {
    /// Bytes taken from the system, in use or waiting.
    #[must_use]
    pub const fn allocated_bytes(&self) -> usize {
        self.pooled_bytes.saturating_add(self.rented_bytes)
    }
}

impl Shelf {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            retention,
            state: Mutex::new(State {
                waiting: Vec::with_capacity(MAX_WAITING),
                stats: PoolStats::default(),
            }),
        }
    }

    pub(super) fn take(&self) -> IdleArena {
        let taken = {
            let mut state = lock(&self.state);
            let taken = state.waiting.pop();
            let stats = &mut state.stats;
            stats.rented += 1;
            match &taken {
                Some(arena) => {
                    stats.hits += 1;
                    stats.pooled -= 1;
                    stats.pooled_bytes -= arena.capacity();
                    stats.rented_bytes += arena.capacity();
                }
                None => stats.misses += 1,
            }
            taken
        };
        match taken {
            Some(mut arena) => {
                arena.reused();
                arena
            }
            None => IdleArena::new(self.retention.initial_bytes),
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        lock(&self.state).stats
    }

    /// Frees all waiting arenas and returns how many bytes that were.
    pub(super) fn clear(&self) -> usize {
        let (freed, bytes) = {
            let mut state = lock(&self.state);
            // Room for the arenas to come is taken here, so that putting one back does not.
            let freed = std::mem::replace(&mut state.waiting, Vec::with_capacity(MAX_WAITING));
            let stats = &mut state.stats;
            let bytes = std::mem::take(&mut stats.pooled_bytes);
            stats.pooled = 0;
            stats.evicted_bytes += bytes as u64;
            (freed, bytes)
        };
        drop(freed);
        bytes
    }
}

impl Home for Shelf {
    fn take_back(&self, mut arena: IdleArena) {
        let before = arena.capacity();
        arena.rewind(self.retention.max_arena_bytes);
        let kept = arena.capacity();
        // Dropped behind the lock if there is no room for it.
        let _refused = {
            let mut state = lock(&self.state);
            let room = self.retention.max_total_bytes - state.stats.pooled_bytes;
            // An arena without memory is not worth a place.
            let keeps = kept > 0 && kept <= room && state.waiting.len() < MAX_WAITING;
            let stats = &mut state.stats;
            stats.rented -= 1;
            stats.rented_bytes -= before;
            let kept = if keeps { kept } else { 0 };
            stats.evicted_bytes += (before - kept) as u64;
            if keeps {
                stats.pooled += 1;
                stats.pooled_bytes += kept;
                state.waiting.push(arena);
                None
            } else {
                Some(arena)
            }
        };
    }

    fn grew(&self, bytes: usize) {
        lock(&self.state).stats.rented_bytes += bytes;
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf")
            .field("retention", &self.retention)
            .field("stats", &self.stats())
            .finish()
    }
}
