use std::{array, time::Duration};

use super::{
    histogram::Histogram,
    snapshot::{OutcomeCounts, Summary},
};
use crate::{
    scope::Closed,
    slab::{SHARDS, thread_shard},
    sync::{AtomicU64, Mutex, OnceLock, Ordering, lock},
};

/// The statistics of all routes, indexed by route number.
#[derive(Debug)]
pub(super) struct Stats {
    routes: Box<[OnceLock<Box<RouteStats>>]>,
}

/// The statistics of one route.
#[derive(Debug)]
struct RouteStats {
    shards: [Shard; SHARDS],
    /// Created when a task is first cancelled.
    cancel_latency: OnceLock<Box<Histogram>>,
}

/// Aligned so that two threads never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Requests opened on this route or relabelled to it, minus those relabelled away. Outside of the
    /// lock, so that opening a request is one addition. Wraps, since a request may be added in one
    /// shard and subtracted in another.
    opened: AtomicU64,
    totals: Mutex<Totals>,
}

/// Sums over closed requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) outcomes: OutcomeCounts,
    pub(super) bytes: Sum,
    pub(super) allocations: Sum,
    pub(super) arena_bytes: Sum,
    pub(super) total_time: Duration,
    pub(super) max_time: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    count: u64,
    total: u64,
    max: u64,
}

impl Sum {
    fn add(&mut self, value: u64) {
        self.count = self.count.saturating_add(1);
        self.total = self.total.saturating_add(value);
        self.max = self.max.max(value);
    }

    fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
    }

    /// Returns `None` if nothing was added: unknown is not zero.
    pub(super) fn figures(&self) -> Option<Summary> {
        (self.count > 0).then_some(Summary {
            count: self.count,
            total: self.total,
            max: self.max,
        })
    }
}

impl Totals {
    fn close(&mut self, report: &Closed<'_>) {
        self.outcomes.add(report.reason.outcome());
        if let Some(usage) = &report.usage {
            self.bytes.add(usage.bytes_allocated);
            self.allocations.add(usage.allocations);
        }
        self.arena_bytes.add(report.arena.bytes as u64);
        self.total_time = self.total_time.saturating_add(report.total_time);
        self.max_time = self.max_time.max(report.total_time);
    }

    fn merge(&mut self, other: &Self) {
        self.outcomes.merge(&other.outcomes);
        self.bytes.merge(&other.bytes);
        self.allocations.merge(&other.allocations);
        self.arena_bytes.merge(&other.arena_bytes);
        self.total_time = self.total_time.saturating_add(other.total_time);
        self.max_time = self.max_time.max(other.max_time);
    }
}

impl RouteStats {
    fn new() -> Self {
        Self {
            shards: array::from_fn(|_| Shard::default()),
            cancel_latency: OnceLock::new(),
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[thread_shard()]
    }

    /// Returns the number of requests opened so far, and the sums of those that have closed.
    fn totals(&self) -> (u64, Totals) {
        let mut sum = Totals::default();
        for shard in &self.shards {
            sum.merge(&lock(&shard.totals));
        }
        // Read after the closed ones, so that no request appears closed but not opened.
        let opened = self.shards.iter().fold(0_u64, |sum, shard| {
            // SeqCst: see `open`.
            sum.wrapping_add(shard.opened.load(Ordering::SeqCst))
        });
        (opened, sum)
    }
}

impl Stats {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
        }
    }

    fn route(&self, route: usize) -> &RouteStats {
        self.routes[route].get_or_init(|| Box::new(RouteStats::new()))
    }

    /// Adds `by` to the requests opened on a route. Wraps, so that `u64::MAX` subtracts one.
    pub(super) fn open(&self, route: usize, by: u64) {
        // SeqCst: a request is counted before it checks whether the layer shuts down (see `Shutdown`).
        // An addition costs no more for it on most processors.
        self.route(route)
            .shard()
            .opened
            .fetch_add(by, Ordering::SeqCst);
    }

    pub(super) fn relabelled(&self, from: usize, to: usize) {
        // In this order a request is briefly on both routes, and never on neither.
        self.open(to, 1);
        self.open(from, u64::MAX);
    }

    /// A scope has closed.
    pub(super) fn closed(&self, closed: &Closed<'_>) {
        let route = self.route(closed.route);
        lock(&route.shard().totals).close(closed);
        if let Some(latency) = closed.cancel_latency() {
            route.cancel_latency.get_or_init(Box::default).add(latency);
        }
    }

    /// Iterates over the routes that cancelled tasks: route number, count, and percentiles of the
    /// latency of their end.
    pub(super) fn cancel_latencies(&self) -> impl Iterator<Item = (usize, u64, [Duration; 3])> {
        self.routes
            .iter()
            .enumerate()
            .filter_map(|(number, route)| {
                let histogram = route.get()?.cancel_latency.get()?;
                let (count, percentiles) = histogram.percentiles()?;
                Some((number, count, percentiles))
            })
    }

    /// Iterates over the routes in use: route number, requests opened, and sums of the closed ones.
    pub(super) fn totals(&self) -> impl DoubleEndedIterator<Item = (usize, u64, Totals)> {
        self.routes
            .iter()
            .enumerate()
            .filter_map(|(number, route)| {
                let (opened, totals) = route.get()?.totals();
                Some((number, opened, totals))
            })
    }
}
