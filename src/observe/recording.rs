//! The statistics alone, for `benches/targets`: only `benches/counters` compiles this.

use super::stats::Stats;
use crate::{
    account::Totals,
    cancel::Outcome,
    journal::{ClosedEntry, Journal},
    route::{KnownMethod, RouteKey},
};

/// Statistics of a layer, without one.
pub struct Recording {
    stats: Stats,
}

impl Recording {
    /// Records nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stats: Stats::new(),
        }
    }

    /// Records one request, from its start to its close. Its figures follow from `n`, at little cost.
    #[inline(never)]
    pub fn record(&self, n: u64) {
        let key = RouteKey {
            route: 0,
            method: KnownMethod::Get,
        };
        self.write(move |journal| journal.opened(key));
        let closed = ClosedEntry {
            key,
            status: Some(200),
            outcome: Outcome::Completed,
            heap: Some(Totals {
                bytes_allocated: 1000 + n % 4096,
                allocations: n % 128,
                peak_bytes: Some(1000 + n % 4096),
            }),
            arena_source: 0,
            arena_bytes: 512,
            time_to_head: Some(20_000 + n % (1 << 17)),
            time_to_end: 30_000 + n % (1 << 17),
            total_time: 30_000 + n % (1 << 17),
        };
        let closed = closed.words();
        self.write(move |journal| journal.closed(closed));
    }

    /// As scopes do it.
    #[inline]
    fn write(&self, push: impl Fn(&Journal) -> Option<usize>) {
        let empty = |journal: &Journal, is_full| self.stats.empty(journal, is_full);
        self.stats.journals().record(push, empty);
    }
}

impl Default for Recording {
    fn default() -> Self {
        Self::new()
    }
}
