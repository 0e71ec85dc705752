use std::{array, sync::atomic::Ordering::Relaxed, time::Duration};

use super::snapshot::{Figures, OutcomeCounts};
use crate::{
    scope::ScopeReport,
    sync::{Mutex, OnceLock, lock},
};

/// Figures are kept in this many parts, each with its own lock, so that threads seldom meet.
const SHARDS: usize = 8;

/// The figures of all routes, by the routes' numbers.
#[derive(Debug)]
pub(super) struct Stats {
    routes: Box<[OnceLock<Box<RouteStats>>]>,
}

/// The figures of one route.
#[derive(Debug)]
struct RouteStats {
    shards: [Shard; SHARDS],
}

/// Aligned so that two threads' parts never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    totals: Mutex<Totals>,
}

/// Sums over requests. A request may be opened in one part and closed in another, so in one part
/// alone `opened` and `open` may be negative.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) opened: i64,
    /// Opened here or moved here, minus closed here or moved away.
    pub(super) open: i64,
    pub(super) outcomes: OutcomeCounts,
    pub(super) bytes: Sum,
    pub(super) allocations: Sum,
    pub(super) arena_bytes: Sum,
    pub(super) time: TimeSum,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    count: u64,
    total: u64,
    max: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TimeSum {
    pub(super) total: Duration,
    pub(super) max: Duration,
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

    /// `None` if nothing was added: what was never measured is not zero.
    pub(super) fn figures(&self) -> Option<Figures> {
        (self.count > 0).then_some(Figures {
            count: self.count,
            total: self.total,
            max: self.max,
        })
    }
}

impl Totals {
    fn close(&mut self, report: &ScopeReport) {
        self.open = self.open.saturating_sub(1);
        self.outcomes.add(report.outcome);
        if let Some(usage) = &report.usage {
            self.bytes.add(usage.bytes_allocated);
            self.allocations.add(usage.allocations);
        }
        self.arena_bytes.add(report.arena.bytes as u64);
        self.time.total = self.time.total.saturating_add(report.total_time);
        self.time.max = self.time.max.max(report.total_time);
    }

    fn merge(&mut self, other: &Self) {
        self.opened = self.opened.saturating_add(other.opened);
        self.open = self.open.saturating_add(other.open);
        self.outcomes.merge(&other.outcomes);
        self.bytes.merge(&other.bytes);
        self.allocations.merge(&other.allocations);
        self.arena_bytes.merge(&other.arena_bytes);
        self.time.total = self.time.total.saturating_add(other.time.total);
        self.time.max = self.time.max.max(other.time.max);
    }
}

/// A number of the calling thread, the same for its whole life.
fn thread_shard() -> usize {
    use std::{cell::Cell, sync::atomic::AtomicUsize};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.try_with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed) % SHARDS);
        }
        mine.get()
    })
    .unwrap_or(0)
}

impl RouteStats {
    fn new() -> Self {
        Self {
            shards: array::from_fn(|_| Shard::default()),
        }
    }

    fn update(&self, f: impl FnOnce(&mut Totals)) {
        if let Some(shard) = self.shards.get(thread_shard()) {
            f(&mut lock(&shard.totals));
        }
    }

    fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for shard in &self.shards {
            sum.merge(&lock(&shard.totals));
        }
        sum
    }
}

impl Stats {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
        }
    }

    fn update(&self, route: usize, f: impl FnOnce(&mut Totals)) {
        if let Some(place) = self.routes.get(route) {
            place.get_or_init(|| Box::new(RouteStats::new())).update(f);
        }
    }

    pub(super) fn opened(&self, route: usize) {
        self.update(route, |totals| {
            totals.opened = totals.opened.saturating_add(1);
            totals.open = totals.open.saturating_add(1);
        });
    }

    pub(super) fn relabelled(&self, from: usize, to: usize) {
        self.update(from, |totals| {
            totals.opened = totals.opened.saturating_sub(1);
            totals.open = totals.open.saturating_sub(1);
        });
        self.update(to, |totals| {
            totals.opened = totals.opened.saturating_add(1);
            totals.open = totals.open.saturating_add(1);
        });
    }

    pub(super) fn closed(&self, route: usize, report: &ScopeReport) {
        self.update(route, |totals| totals.close(report));
    }

    /// The sums of each route that was ever used, with the route's number.
    pub(super) fn totals(&self) -> impl Iterator<Item = (usize, Totals)> {
        self.routes
            .iter()
            .enumerate()
            .filter_map(|(number, route)| Some((number, route.get()?.totals())))
    }
}
