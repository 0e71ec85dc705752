use super::{
    snapshot::OutcomeCounts,
    summary::{Summary, TimeSummary},
};
use crate::{
    histogram::Histograms,
    journal::{Entry, HAS_USAGE, IS_LATENCY, OUTCOME, SOURCE, STATUS, UNKNOWN, WORDS},
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
    /// Requests by the [index](crate::scope::ArenaSource::index) of the source of their arena.
    pub(super) arenas: [u64; 3],
    figures: Histograms<FIGURES, CHUNKS>,
}

// `RouteSnapshot` states this bound. The rest is for counts beyond `u32`.
const _: () = assert!(cfg!(tower_memory_loom) || size_of::<Row>() + CHUNKS * 64 <= (8 << 10) - 128);

impl Row {
    /// Adds what entries of closed requests, or of latencies, say, whose first word is `word`.
    ///
    /// Requests of one route that follow each other have many figures in common, so equal ones are added together.
    #[inline]
    pub(super) fn add(&mut self, word: u64, entries: &[Entry<WORDS>]) {
        if IS_LATENCY.get(word) != 0 {
            self.add_figure(Figure::CancelLatency, entries, 1);
            return;
        }
        let count = entries.len() as u64;
        self.outcomes.add(OUTCOME.get(word) as usize, count);
        // Statuses from 600 on are invalid, and counted as none.
        let class = STATUS.get(word) as usize / 100;
        self.statuses[if class < 6 { class } else { 0 }] += count;
        if let Some(arenas) = self.arenas.get_mut(SOURCE.get(word) as usize) {
            *arenas += count;
        }
        if HAS_USAGE.get(word) != 0 {
            self.add_figure(Figure::Bytes, entries, 1);
            self.add_figure(Figure::Allocations, entries, 2);
            self.add_figure(Figure::PeakBytes, entries, 3);
        }
        self.add_figure(Figure::ArenaBytes, entries, 4);
        // Times differ.
        let times = |word| entries.iter().map(move |entry| (entry.get(word), 1));
        let heads = times(5).filter(|head| head.0 != UNKNOWN);
        self.figures.extend(Figure::TimeToHead as usize, heads);
        for (end, _) in times(6) {
            self.time_to_end = self.time_to_end.wrapping_add(end);
        }
        self.figures.extend(Figure::TotalTime as usize, times(7));
    }

    /// Adds a word of each entry to a histogram, unless it is not known.
    fn add_figure(&mut self, figure: Figure, entries: &[Entry<WORDS>], word: usize) {
        let runs = Entry::runs(entries, word).filter_map(|run| {
            let value = run.first()?.get(word);
            (value != UNKNOWN).then_some((value, run.len() as u32))
        });
        self.figures.extend(figure as usize, runs);
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
