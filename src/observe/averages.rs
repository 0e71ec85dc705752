//! What a route allocates, for response headers.
//!
//! Percentiles need the lock of the statistics, and a search. So one request in a second takes them for all
//! of its route.

use std::time::Duration;

use tokio::time::Instant;

use super::{by_route::ByRoute, stats::Stats};
use crate::{
    account::aside,
    route::RouteKey,
    scope::RouteFigures,
    sync::{AtomicU64, Ordering},
};

/// How long figures are used again.
const INTERVAL: Duration = Duration::from_secs(1);

// `MemoryLayerBuilder::expose_route_figures` states this.
const _: () = assert!(INTERVAL.as_secs() == 1);

/// The figures of all routes of a layer.
pub(super) struct Averages {
    routes: ByRoute<Cached>,
    epoch: Instant,
}

/// Of one method of one route.
#[derive(Default)]
struct Cached {
    /// One more than the figures, or zero while they are not known.
    figures: [AtomicU64; 3],
    /// When they are taken anew, in nanoseconds since the epoch.
    until: AtomicU64,
}

impl Averages {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes: ByRoute::new(routes),
            epoch: Instant::now(),
        }
    }

    /// Returns what requests of the route have allocated, if that is known.
    pub(super) fn get(&self, key: RouteKey, stats: &Stats) -> Option<RouteFigures> {
        let cached = self.routes.get(key);
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Relaxed, here and below: figures. A request that reads them while they are written has some of
        // the second before.
        let until = cached.until.load(Ordering::Relaxed);
        if now >= until {
            let next = now.saturating_add(INTERVAL.as_nanos() as u64);
            let claimed =
                cached
                    .until
                    .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
            if claimed.is_ok() {
                cached.take(key, stats);
            }
        }
        let figure = |at: usize| cached.figures[at].load(Ordering::Relaxed).checked_sub(1);
        Some(RouteFigures {
            mean: figure(0)?,
            p50: figure(1)?,
            p99: figure(2)?,
        })
    }
}

impl Cached {
    /// Takes the figures from the statistics.
    #[cold]
    fn take(&self, key: RouteKey, stats: &Stats) {
        let Some(bytes) = aside(|| stats.bytes_of(key)) else {
            return;
        };
        let figures = [
            bytes.mean().round() as u64,
            bytes.percentile(0.5),
            bytes.percentile(0.99),
        ];
        for (cached, figure) in self.figures.iter().zip(figures) {
            cached.store(figure.saturating_add(1), Ordering::Relaxed);
        }
        aside(|| drop(bytes));
    }
}
