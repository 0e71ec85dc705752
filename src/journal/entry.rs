//! The words of entries.

use super::ring::Entry;
use crate::{
    account::Totals,
    cancel::Outcome,
    pack::Field,
    route::{KnownMethod, RouteKey},
};

/// Words of the entry of a closed request.
pub(crate) const WORDS: usize = 8;

/// The first word of an entry: the place of the row, and what becomes of it.
const PLACE: Field = Field::first(20);

/// Of an opened request: whether it has come from another row, and which one.
const MOVED: Field = PLACE.then(1);
const FROM: Field = MOVED.then(20);

/// Of a closed request: the status, the outcome, and whether heap figures are known.
pub(crate) const STATUS: Field = PLACE.then(10);
pub(crate) const OUTCOME: Field = STATUS.then(4);
pub(crate) const HAS_USAGE: Field = OUTCOME.then(1);
/// The second word is the latency of a cancellation, and there are no others.
pub(crate) const IS_LATENCY: Field = HAS_USAGE.then(1);

/// Of a closed request: the source of its arena.
pub(crate) const SOURCE: Field = IS_LATENCY.then(2);

/// A figure of an entry is not known.
pub(crate) const UNKNOWN: u64 = u64::MAX;

// `MemoryLayerBuilder::max_routes` is at most 65536, and there are two more.
const _: () = assert!(PLACE.max() as usize >= ((1 << 16) + 2) * KnownMethod::COUNT);
const _: () = assert!(OUTCOME.max() as usize >= Outcome::ALL.len());

/// The place of a row in the table.
#[inline]
pub(crate) const fn place(key: RouteKey) -> usize {
    key.route * KnownMethod::COUNT + key.method.index()
}

/// The key of the row at a place.
pub(crate) const fn key_of(place: usize) -> RouteKey {
    RouteKey {
        route: place / KnownMethod::COUNT,
        method: KnownMethod::ALL[place % KnownMethod::COUNT],
    }
}

/// The place of the row that an entry belongs to.
#[inline]
pub(crate) const fn place_of(word: u64) -> usize {
    PLACE.get(word) as usize
}

/// The entry of a request that was opened.
#[inline]
pub(crate) const fn opened(key: RouteKey) -> u64 {
    PLACE.pack(place(key) as u64)
}

/// The entry of an open request that was moved to another route.
pub(crate) const fn moved(from: RouteKey, to: usize) -> u64 {
    let to = RouteKey {
        route: to,
        method: from.method,
    };
    opened(to) | MOVED.pack(1) | FROM.pack(place(from) as u64)
}

/// The place that a request was moved away from.
#[inline]
pub(crate) fn moved_from(word: u64) -> Option<usize> {
    (MOVED.get(word) != 0).then(|| FROM.get(word) as usize)
}

/// The figures of a request that has closed.
pub(crate) struct ClosedEntry {
    pub(crate) key: RouteKey,
    pub(crate) status: Option<u16>,
    pub(crate) outcome: Outcome,
    pub(crate) heap: Option<Totals>,
    /// The index of the arena's source, below four.
    pub(crate) arena_source: usize,
    pub(crate) arena_bytes: usize,
    /// Nanoseconds, here and below.
    pub(crate) time_to_head: Option<u64>,
    pub(crate) time_to_end: u64,
    pub(crate) total_time: u64,
}

impl ClosedEntry {
    /// The words of the entry, which a thread has in registers until it writes them.
    #[inline]
    pub(crate) fn words(&self) -> [u64; WORDS] {
        let word = opened(self.key)
            | STATUS.pack(self.status.unwrap_or(0).into())
            | OUTCOME.pack(self.outcome.index() as u64)
            | SOURCE.pack(self.arena_source as u64);
        let (word, bytes, allocations, peak) = match &self.heap {
            None => (word, 0, 0, 0),
            Some(heap) => (
                word | HAS_USAGE.pack(1),
                heap.bytes_allocated,
                heap.allocations,
                heap.peak_bytes.unwrap_or(UNKNOWN),
            ),
        };
        [
            word,
            bytes,
            allocations,
            peak,
            self.arena_bytes as u64,
            self.time_to_head.unwrap_or(UNKNOWN),
            self.time_to_end,
            self.total_time,
        ]
    }
}

/// Writes the entry of a latency, in nanoseconds.
pub(super) fn write_latency(entry: &Entry<WORDS>, key: RouteKey, nanos: u64) {
    entry.set(0, opened(key) | IS_LATENCY.pack(1));
    entry.set(1, nanos);
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_what_they_are_made_of() {
        let key = RouteKey {
            route: 65_537,
            method: KnownMethod::Trace,
        };
        let place = place(key);
        assert_eq!(key_of(place), key);
        let (opened, moved) = (opened(key), moved(key, 3));
        assert_eq!((place_of(opened), moved_from(opened)), (place, None));
        let to = key_of(place_of(moved));
        assert_eq!((to.route, to.method), (3, key.method));
        assert_eq!(moved_from(moved), Some(place));
    }
}
