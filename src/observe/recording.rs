//! The statistics alone, for `benches/targets`: only `benches/counters` compiles this.

use tokio::time::Instant;

use super::stats::Stats;
use crate::{
    cancel::{CancelReason, Outcome},
    route::{KnownMethod, RouteKey, RouteRegistry},
    scope::{ArenaSource, ArenaUsage, Closed},
    task::TaskSpan,
};

/// Statistics of a layer, without one.
pub struct Recording {
    stats: Stats,
    routes: RouteRegistry,
    start: Instant,
    span: TaskSpan,
}

impl Recording {
    /// Records nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stats: Stats::new(),
            routes: RouteRegistry::new(1),
            start: Instant::now(),
            span: TaskSpan::none(),
        }
    }

    /// Records one request, from its start to its close. Its figures follow from `n`.
    #[inline(never)]
    pub fn record(&self, n: u64) {
        let key = RouteKey {
            route: 0,
            method: KnownMethod::Get,
        };
        self.stats.open(key);
        let mut usage = crate::account::Usage::default();
        usage.heap.bytes_allocated = 1000 + n % 4096;
        usage.heap.allocations = n % 100;
        usage.peak_bytes = Some(1000 + n % 4096);
        self.stats.closed(&Closed {
            id: 0,
            start: self.start,
            span: &self.span,
            key,
            label: &self.routes.route(0).label,
            status: Some(200),
            reason: CancelReason::new(Outcome::Completed),
            usage: Some(&usage),
            arena: ArenaUsage {
                source: ArenaSource::Pool,
                bytes: 512,
                capacity: 16_384,
            },
            time_to_head: Some(20_000 + n % 100_000),
            time_to_end: 30_000 + n % 100_000,
            total_time: 30_000 + n % 100_000,
            tasks: None,
            annotations: None,
        });
    }
}

impl Default for Recording {
    fn default() -> Self {
        Self::new()
    }
}
