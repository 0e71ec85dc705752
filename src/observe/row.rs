use super::{
    journal::WORDS,
    snapshot::OutcomeCounts,
    summary::{Summary, TimeSummary},
};
use crate::{
    cancel::Outcome,
    histogram::Histograms,
    pack::Field,
    route::{KnownMethod, RouteKey},
    scope::Closed,
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
    figures: Histograms<FIGURES, CHUNKS>,
}

// `RouteSnapshot` states this bound. The rest is for counts beyond `u32`.
const _: () = assert!(cfg!(tower_memory_loom) || size_of::<Row>() + CHUNKS * 64 <= (8 << 10) - 128);

/// The first word of an entry: route, method, and what becomes of it.
const ROUTE: Field = Field::first(17);
const METHOD: Field = ROUTE.then(4);

/// Of an opened request: whether it has come from another route, and which one.
const MOVED: Field = METHOD.then(1);
const FROM: Field = MOVED.then(17);

/// Of a closed request: the first digit of the status, the outcome, and which figures are known.
const STATUS: Field = METHOD.then(3);
const OUTCOME: Field = STATUS.then(4);
const HAS_USAGE: Field = OUTCOME.then(1);
const HAS_PEAK: Field = HAS_USAGE.then(1);
const HAS_HEAD: Field = HAS_PEAK.then(1);
/// The second word is the latency of a cancellation, and there are no others.
const IS_LATENCY: Field = HAS_HEAD.then(1);

// `MemoryLayerBuilder::max_routes` is at most 65536, and there are two more.
const _: () = assert!(ROUTE.max() > (1 << 16) + 2);
const _: () = assert!(METHOD.max() as usize >= KnownMethod::COUNT);
const _: () = assert!(OUTCOME.max() as usize >= Outcome::ALL.len());

#[inline]
fn pack_key(key: RouteKey) -> u64 {
    ROUTE.pack(key.route as u64) | METHOD.pack(key.method.index() as u64)
}

/// The key of an entry.
#[inline]
pub(super) fn key(word: u64) -> (usize, usize) {
    (ROUTE.get(word) as usize, METHOD.get(word) as usize)
}

/// The entry of a request that was opened.
#[inline]
pub(super) fn opened(key: RouteKey) -> u64 {
    pack_key(key)
}

/// The entry of an open request that was moved to another route.
pub(super) fn moved(from: RouteKey, to: usize) -> u64 {
    let to = RouteKey { route: to, ..from };
    pack_key(to) | MOVED.pack(1) | FROM.pack(from.route as u64)
}

/// The route that a request was moved away from.
#[inline]
pub(super) fn moved_from(word: u64) -> Option<usize> {
    (MOVED.get(word) != 0).then(|| FROM.get(word) as usize)
}

/// The entry of a request that has closed.
#[inline]
pub(super) fn closed(closed: &Closed<'_>) -> [u64; WORDS] {
    // Statuses from 600 on are invalid, and counted as none.
    let status = closed.status.filter(|status| *status < 600).unwrap_or(0) / 100;
    let usage = closed.usage.unwrap_or_default();
    let word = pack_key(closed.key)
        | STATUS.pack(status.into())
        | OUTCOME.pack(closed.reason.outcome().index() as u64)
        | HAS_USAGE.pack(closed.usage.is_some().into())
        | HAS_PEAK.pack(usage.peak_bytes.is_some().into())
        | HAS_HEAD.pack(closed.time_to_head.is_some().into());
    [
        word,
        usage.bytes_allocated,
        usage.allocations,
        usage.peak_bytes.unwrap_or(0),
        closed.arena.bytes as u64,
        closed.time_to_head.unwrap_or(0),
        closed.time_to_end,
        closed.total_time,
    ]
}

/// The entry of a latency, in nanoseconds.
pub(super) fn latency(key: RouteKey, nanos: u64) -> [u64; WORDS] {
    let mut entry = [0; WORDS];
    entry[..2].copy_from_slice(&[pack_key(key) | IS_LATENCY.pack(1), nanos]);
    entry
}

impl Row {
    /// Adds what an entry of [`closed`] or [`latency`] says.
    #[inline]
    pub(super) fn add(&mut self, entry: [u64; WORDS]) {
        let [word, bytes, allocations, peak, arena, head, end, total] = entry;
        if IS_LATENCY.get(word) != 0 {
            self.figures.add(Figure::CancelLatency as usize, bytes);
            return;
        }
        self.outcomes.add(OUTCOME.get(word) as usize);
        self.statuses[STATUS.get(word) as usize % 6] += 1;
        if HAS_USAGE.get(word) != 0 {
            self.figures.add(Figure::Bytes as usize, bytes);
            self.figures.add(Figure::Allocations as usize, allocations);
            if HAS_PEAK.get(word) != 0 {
                self.figures.add(Figure::PeakBytes as usize, peak);
            }
        }
        self.figures.add(Figure::ArenaBytes as usize, arena);
        if HAS_HEAD.get(word) != 0 {
            self.figures.add(Figure::TimeToHead as usize, head);
        }
        self.figures.add(Figure::TotalTime as usize, total);
        self.time_to_end = self.time_to_end.saturating_add(end);
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
