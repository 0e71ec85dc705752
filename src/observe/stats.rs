use std::{array, time::Duration};

use super::{
    histogram::Histogram,
    snapshot::{OutcomeCounts, Summary},
};
use crate::{
    account::aside,
    route::{KnownMethod, RouteKey},
    scope::Closed,
    slab::{SHARDS, thread_shard},
    sync::{AtomicU64, Mutex, OnceLock, Ordering, fence, lock},
};

/// The statistics of all routes, indexed by route number.
#[derive(Debug)]
pub(super) struct Stats {
    routes: Box<[OnceLock<Box<RouteStats>>]>,
}

/// The statistics of one route: the shards of each method, and what all methods share.
///
/// A shard is created by the first thread that uses it, so a method that is not used costs one word per
/// shard.
#[derive(Debug)]
struct RouteStats {
    shards: [[OnceLock<Box<Shard>>; SHARDS]; KnownMethod::COUNT],
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

impl Shard {
    /// Adds to the requests opened, and wraps.
    fn add(&self, requests: u64) {
        // SeqCst: a request is counted before it checks whether the layer shuts down (see `Shutdown`).
        // An addition costs no more for it on most processors.
        self.opened.fetch_add(requests, Ordering::SeqCst);
    }
}

/// Sums over closed requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) outcomes: OutcomeCounts,
    /// By the first digit of the status; 0 without a response.
    pub(super) statuses: [u64; 6],
    pub(super) bytes: Sum,
    pub(super) peak_bytes: Sum,
    /// Of as many requests as `bytes`.
    pub(super) allocations: Extent,
    /// Of all.
    pub(super) arena_bytes: Extent,
    pub(super) time_to_end: Nanos,
    pub(super) total_time: Nanos,
    pub(super) max_time: Nanos,
}

/// A time in half the size of a `Duration`: up to 584 years.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nanos(u64);

impl Nanos {
    fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl From<Duration> for Nanos {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(time: Nanos) -> Self {
        Self::from_nanos(time.0)
    }
}

/// Sum and maximum of values that are counted elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    total: u64,
    max: u64,
}

impl Extent {
    fn add(&mut self, value: u64) {
        self.total = self.total.saturating_add(value);
        self.max = self.max.max(value);
    }

    fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
    }

    /// Returns `None` if nothing was added: unknown is not zero.
    pub(super) fn figures(&self, count: u64) -> Option<Summary> {
        (count > 0).then_some(Summary {
            count,
            total: self.total,
            max: self.max,
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) count: u64,
    of: Extent,
}

impl Sum {
    pub(super) fn add(&mut self, value: u64) {
        self.count = self.count.saturating_add(1);
        self.of.add(value);
    }

    fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.of.merge(&other.of);
    }

    pub(super) fn figures(&self) -> Option<Summary> {
        self.of.figures(self.count)
    }
}

impl Totals {
    fn close(&mut self, report: &Closed<'_>) {
        self.outcomes.add(report.reason.outcome());
        let class = usize::from(report.status.unwrap_or(0) / 100);
        // Statuses from 600 on are invalid, and counted as none.
        let class = if class < self.statuses.len() {
            class
        } else {
            0
        };
        self.statuses[class] = self.statuses[class].saturating_add(1);
        if let Some(usage) = &report.usage {
            self.bytes.add(usage.bytes_allocated);
            self.allocations.add(usage.allocations);
            if let Some(peak) = usage.peak_bytes {
                self.peak_bytes.add(peak);
            }
        }
        self.arena_bytes.add(report.arena.bytes as u64);
        let total_time = report.total_time.into();
        self.time_to_end = self.time_to_end.plus(report.time_to_end.into());
        self.total_time = self.total_time.plus(total_time);
        self.max_time = self.max_time.max(total_time);
    }

    fn merge(&mut self, other: &Self) {
        self.outcomes.merge(&other.outcomes);
        for (count, other) in self.statuses.iter_mut().zip(other.statuses) {
            *count = count.saturating_add(other);
        }
        self.bytes.merge(&other.bytes);
        self.peak_bytes.merge(&other.peak_bytes);
        self.allocations.merge(&other.allocations);
        self.arena_bytes.merge(&other.arena_bytes);
        self.time_to_end = self.time_to_end.plus(other.time_to_end);
        self.total_time = self.total_time.plus(other.total_time);
        self.max_time = self.max_time.max(other.max_time);
    }
}

// `RouteSnapshot` states these bounds.
const _: () = assert!(
    cfg!(tower_memory_loom) || size_of::<RouteStats>() <= 1536 && size_of::<Shard>() <= 256
);

impl RouteStats {
    fn new() -> Self {
        Self {
            shards: array::from_fn(|_| array::from_fn(|_| OnceLock::new())),
            cancel_latency: OnceLock::new(),
        }
    }

    fn shard(&self, method: KnownMethod) -> &Shard {
        let cell = &self.shards[method.index()][thread_shard()];
        match cell.get() {
            Some(shard) => shard,
            None => made(cell, Shard::default),
        }
    }

    /// Returns the number of requests of a method opened so far, and the sums of those that have closed.
    fn totals(&self, method: KnownMethod) -> (u64, Totals) {
        let shards = self.shards[method.index()].iter();
        let shards = shards.filter_map(|shard| shard.get());
        let mut sum = Totals::default();
        for shard in shards.clone() {
            sum.merge(&lock(&shard.totals));
        }
        // Read after the closed ones, so that no request appears closed but not opened.
        let opened = shards.fold(0_u64, |sum, shard| {
            // SeqCst: see `Shard::add`.
            sum.wrapping_add(shard.opened.load(Ordering::SeqCst))
        });
        (opened, sum)
    }
}

/// Makes the value of an empty cell.
#[cold]
fn made<T>(cell: &OnceLock<Box<T>>, make: impl FnOnce() -> T) -> &T {
    let value = cell.get_or_init(|| aside(|| Box::new(make())));
    // As the additions in `open`: a shutdown sees the cell, or the request sees the shutdown.
    fence(Ordering::SeqCst);
    value
}

impl Stats {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
        }
    }

    fn route(&self, route: usize) -> &RouteStats {
        let cell = &self.routes[route];
        match cell.get() {
            Some(stats) => stats,
            None => made(cell, RouteStats::new),
        }
    }

    /// Counts a request.
    pub(super) fn open(&self, key: RouteKey) {
        self.route(key.route).shard(key.method).add(1);
    }

    pub(super) fn relabelled(&self, from: RouteKey, to: usize) {
        // In this order a request is briefly on both routes, and never on neither.
        self.route(to).shard(from.method).add(1);
        self.route(from.route)
            .shard(from.method)
            .add(1_u64.wrapping_neg());
    }

    /// A scope has closed.
    pub(super) fn closed(&self, closed: &Closed<'_>) {
        let route = self.route(closed.key.route);
        lock(&route.shard(closed.key.method).totals).close(closed);
        if let Some(latency) = closed.cancel_latency() {
            route
                .cancel_latency
                .get_or_init(|| aside(Box::default))
                .add(latency);
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

    /// Iterates over the routes and methods in use: requests opened, and sums of the closed ones.
    pub(super) fn totals(&self) -> impl DoubleEndedIterator<Item = (RouteKey, u64, Totals)> {
        // For a shutdown, which has set its flag: see `made`.
        fence(Ordering::SeqCst);
        let routes = self.routes.iter().enumerate();
        let routes = routes.filter_map(|(number, route)| Some((number, route.get()?)));
        routes.flat_map(|(route, stats)| {
            KnownMethod::ALL.into_iter().filter_map(move |method| {
                let (opened, totals) = stats.totals(method);
                // Unused, or all its requests have been relabelled.
                (opened > 0).then_some((RouteKey { route, method }, opened, totals))
            })
        })
    }
}
