use super::{
    journal::{Entry, WORDS},
    snapshot::OutcomeCounts,
    summary::{Summary, TimeSummary},
};
use crate::{
    cancel::Outcome,
    histogram::Histograms,
    pack::Field,
    route::{KnownMethod, RouteKey},
    scope::{ArenaSource, Closed},
};

/// What is counted of closed requests, each with a histogram.
#[derive(Debug, Clone, Copy)]
pub(super) enum Figure {
    Bytes,
    Allocations,
    PeakBytes,
    ArenaBytes,
    TimeToHead,
    TotalTime,
    CancelLatency,
}

/// The number of [`Figure`]s.
const FIGURES: usize = Figure::CancelLatency as usize + 1;

/// So many powers of two have buckets, of all figures together.
const CHUNKS: usize = 112;

/// The statistics of one method of one route.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    /// Requests opened on this route or relabelled to it, minus those relabelled away. Wraps, since the
    /// one may be read before the other.
    pub(super) opened: u64,
    pub(super) outcomes: OutcomeCounts,
    /// By the first digit of the status; 0 without a response.
    pub(super) statuses: [u64; 6],
    pub(super) time_to_end: u64,
    /// Requests that held more than their limit, and were not ended.
    pub(super) over_limit: u64,
    /// Requests by the [source](source) of their arena.
    pub(super) arenas: [u64; 3],
    figures: Histograms<FIGURES, CHUNKS>,
}

// `RouteSnapshot` states this bound. The rest is for counts beyond `u32`.
const _: () = assert!(cfg!(tower_memory_loom) || size_of::<Row>() + CHUNKS * 64 <= (8 << 10) - 128);

/// The first word of an entry: the place of the row, and what becomes of it.
const PLACE: Field = Field::first(20);

/// Of an opened request: whether it has come from another row, and which one.
const MOVED: Field = PLACE.then(1);
const FROM: Field = MOVED.then(20);

/// Of a closed request: the status, the outcome, and whether heap figures are known.
const STATUS: Field = PLACE.then(10);
const OUTCOME: Field = STATUS.then(4);
const HAS_USAGE: Field = OUTCOME.then(1);
/// The second word is the latency of a cancellation, and there are no others.
const IS_LATENCY: Field = HAS_USAGE.then(1);

/// Of a closed request: the source of its arena.
const SOURCE: Field = IS_LATENCY.then(2);

/// What stands for the source of an arena in an entry.
pub(super) const fn source(of: ArenaSource) -> usize {
    match of {
        ArenaSource::Unused => 0,
        ArenaSource::Fresh => 1,
        ArenaSource::Pool => 2,
    }
}

/// A figure of an entry is not known.
const UNKNOWN: u64 = u64::MAX;

// `MemoryLayerBuilder::max_routes` is at most 65536, and there are two more.
const _: () = assert!(PLACE.max() as usize >= ((1 << 16) + 2) * KnownMethod::COUNT);
const _: () = assert!(OUTCOME.max() as usize >= Outcome::ALL.len());

/// The place of a row in the table.
#[inline]
pub(super) const fn place(key: RouteKey) -> usize {
    key.route * KnownMethod::COUNT + key.method.index()
}

/// The key of the row at a place.
pub(super) const fn key(place: usize) -> RouteKey {
    RouteKey {
        route: place / KnownMethod::COUNT,
        method: KnownMethod::ALL[place % KnownMethod::COUNT],
    }
}

/// The place of the row that an entry belongs to.
#[inline]
pub(super) const fn place_of(word: u64) -> usize {
    PLACE.get(word) as usize
}

/// The entry of a request that was opened.
#[inline]
pub(super) const fn opened(key: RouteKey) -> u64 {
    PLACE.pack(place(key) as u64)
}

/// The entry of an open request that was moved to another route.
pub(super) const fn moved(from: RouteKey, to: usize) -> u64 {
    let to = RouteKey {
        route: to,
        method: from.method,
    };
    opened(to) | MOVED.pack(1) | FROM.pack(place(from) as u64)
}

/// The place that a request was moved away from.
#[inline]
pub(super) fn moved_from(word: u64) -> Option<usize> {
    (MOVED.get(word) != 0).then(|| FROM.get(word) as usize)
}

/// Writes the entry of a request that has closed.
#[inline]
pub(super) fn write_closed(entry: &Entry<WORDS>, closed: &Closed<'_>) {
    let word = opened(closed.key)
        | STATUS.pack(closed.status.unwrap_or(0).into())
        | OUTCOME.pack(closed.reason.outcome().index() as u64)
        | SOURCE.pack(source(closed.arena.source) as u64);
    entry.set(0, word);
    if let Some(usage) = &closed.usage {
        entry.set(0, word | HAS_USAGE.pack(1));
        entry.set(1, usage.bytes_allocated);
        entry.set(2, usage.allocations);
        entry.set(3, usage.peak_bytes.unwrap_or(UNKNOWN));
    }
    entry.set(4, closed.arena.bytes as u64);
    entry.set(5, closed.time_to_head.unwrap_or(UNKNOWN));
    entry.set(6, closed.time_to_end);
    entry.set(7, closed.total_time);
}

/// Writes the entry of a latency, in nanoseconds.
pub(super) fn write_latency(entry: &Entry<WORDS>, key: RouteKey, nanos: u64) {
    entry.set(0, opened(key) | IS_LATENCY.pack(1));
    entry.set(1, nanos);
}

impl Row {
    /// Adds what an entry of [`write_closed`] or [`write_latency`] says. Its first word is `word`.
    #[inline]
    pub(super) fn add(&mut self, word: u64, entry: &Entry<WORDS>) {
        let figures = &mut self.figures;
        if IS_LATENCY.get(word) != 0 {
            figures.add(Figure::CancelLatency as usize, entry.get(1));
            return;
        }
        self.outcomes.add(OUTCOME.get(word) as usize);
        // Statuses from 600 on are invalid, and counted as none.
        let class = STATUS.get(word) as usize / 100;
        self.statuses[if class < 6 { class } else { 0 }] += 1;
        if let Some(arenas) = self.arenas.get_mut(SOURCE.get(word) as usize) {
            *arenas += 1;
        }
        if HAS_USAGE.get(word) != 0 {
            figures.add(Figure::Bytes as usize, entry.get(1));
            figures.add(Figure::Allocations as usize, entry.get(2));
            let peak = entry.get(3);
            if peak != UNKNOWN {
                figures.add(Figure::PeakBytes as usize, peak);
            }
        }
        figures.add(Figure::ArenaBytes as usize, entry.get(4));
        let head = entry.get(5);
        if head != UNKNOWN {
            figures.add(Figure::TimeToHead as usize, head);
        }
        self.time_to_end = self.time_to_end.wrapping_add(entry.get(6));
        figures.add(Figure::TotalTime as usize, entry.get(7));
    }

    /// Requests that are open. Negative for a moment while others are moved, or closed.
    pub(super) fn open(&self) -> i64 {
        self.opened.wrapping_sub(self.outcomes.total()) as i64
    }

    pub(super) fn summary(&self, figure: Figure) -> Option<Summary> {
        Summary::of(&self.figures, figure as usize)
    }

    pub(super) fn times(&self, figure: Figure) -> Option<TimeSummary> {
        self.summary(figure).map(TimeSummary::from)
    }
}
