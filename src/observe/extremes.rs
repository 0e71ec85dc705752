//! The largest and the slowest requests of each route.
//!
//! Each route and method has two tables of each kind: one for the interval that runs, and that of the
//! interval before. So what is shown is complete for the last five to ten minutes. A request that is in
//! neither table takes two comparisons.

use std::time::Duration;

use tokio::time::Instant;

use super::by_route::ByRoute;
use crate::{
    account::aside,
    route::RouteKey,
    scope::{Closed, ScopeReport},
    sync::{AtomicU64, Mutex, Ordering, lock},
};

/// Requests in a table.
const LEN: usize = 8;

/// How long a table is filled.
const INTERVAL: Duration = Duration::from_secs(300);

// `MemoryHandle::extremes` states these.
const _: () = assert!(LEN == 8 && INTERVAL.as_secs() == 5 * 60);

/// A request that has closed.
///
/// # Examples
///
/// See [`MemoryHandle::extremes`](crate::MemoryHandle::extremes).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastRequest {
    /// Time since it closed.
    pub ago: Duration,
    /// Its figures.
    pub report: ScopeReport,
}

/// What a table is ordered by.
fn sizes(closed: &Closed<'_>) -> [u64; 2] {
    let usage = closed.usage.as_ref();
    let bytes = usage.map_or(closed.arena.bytes as u64, |usage| usage.bytes_allocated);
    [bytes, closed.total_time]
}

/// The tables of all routes of a layer.
pub(super) struct Extremes {
    routes: ByRoute<Row>,
    epoch: Instant,
}

/// The tables of one method of one route.
#[derive(Default)]
struct Row {
    /// What a request has to exceed to come into each table, and the end of the interval in nanoseconds since
    /// the epoch.
    floors: [AtomicU64; 2],
    until: AtomicU64,
    tables: Mutex<[Tables; 2]>,
}

/// Requests by size, largest first: of this interval, and of the one before.
#[derive(Debug, Default)]
struct Tables {
    now: Vec<Entry>,
    before: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    size: u64,
    closed: Instant,
    report: ScopeReport,
}

impl Extremes {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes: ByRoute::new(routes),
            epoch: Instant::now(),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether a request that has closed comes into a table.
    pub(super) fn wants(&self, closed: &Closed<'_>) -> bool {
        let row = self.routes.get(closed.key);
        // Relaxed: looked at again under the lock.
        let floors = row
            .floors
            .each_ref()
            .map(|floor| floor.load(Ordering::Relaxed));
        let sizes = sizes(closed);
        sizes[0] >= floors[0]
            || sizes[1] >= floors[1]
            || self.nanos(closed_at(closed)) >= row.until.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, closed: &Closed<'_>, report: &ScopeReport) {
        let (row, at) = (self.routes.get(closed.key), closed_at(closed));
        aside(|| {
            let mut tables = lock(&row.tables);
            self.turn(row, &mut tables, at);
            let all = tables.iter_mut().zip(sizes(closed)).zip(&row.floors);
            for ((table, size), floor) in all {
                if let Some(lowest) = table.add(size, at, report) {
                    floor.store(lowest.saturating_add(1), Ordering::Relaxed);
                }
            }
        });
    }

    /// Begins a new interval if the one that runs is over.
    fn turn(&self, row: &Row, tables: &mut [Tables; 2], at: Instant) {
        let now = self.nanos(at);
        let until = row.until.load(Ordering::Relaxed);
        if now < until {
            return;
        }
        let interval = u64::try_from(INTERVAL.as_nanos()).unwrap_or(u64::MAX);
        // Older than one interval, unless it is the first.
        let is_stale = now - until >= interval;
        let next = if is_stale { now } else { until };
        for table in tables {
            let last = std::mem::take(&mut table.now);
            table.before = if is_stale { Vec::new() } else { last };
        }
        row.floors
            .iter()
            .for_each(|floor| floor.store(0, Ordering::Relaxed));
        row.until
            .store(next.saturating_add(interval), Ordering::Relaxed);
    }

    /// Returns what the tables of each method and route hold.
    pub(super) fn read(&self) -> Vec<(RouteKey, [Vec<PastRequest>; 2])> {
        let now = Instant::now();
        let mut found = Vec::new();
        for (key, row) in self.routes.iter() {
            let mut tables = lock(&row.tables);
            self.turn(row, &mut tables, now);
            let entries = tables.each_ref().map(Tables::all);
            drop(tables);
            if entries[0].is_empty() {
                continue;
            }
            let requests = entries.map(|entries| {
                let past = |entry: Entry| PastRequest {
                    ago: now.saturating_duration_since(entry.closed),
                    report: entry.report,
                };
                entries.into_iter().map(past).collect()
            });
            found.push((key, requests));
        }
        found
    }
}

fn closed_at(closed: &Closed<'_>) -> Instant {
    let open = Duration::from_nanos(closed.total_time);
    closed.start.checked_add(open).unwrap_or(closed.start)
}

impl Tables {
    /// Adds a request if it is large enough. Returns the smallest size of a table that is full.
    fn add(&mut self, size: u64, closed: Instant, report: &ScopeReport) -> Option<u64> {
        let place = self.now.partition_point(|entry| entry.size >= size);
        if place < LEN {
            self.now.truncate(LEN - 1);
            self.now.insert(
                place,
                Entry {
                    size,
                    closed,
                    report: report.clone(),
                },
            );
        }
        self.now.get(LEN - 1).map(|last| last.size)
    }

    /// The largest of both intervals.
    fn all(&self) -> Vec<Entry> {
        let mut all = [self.now.as_slice(), &self.before].concat();
        all.sort_by_key(|entry| std::cmp::Reverse(entry.size));
        all.truncate(LEN);
        all
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::route::KnownMethod;
    use crate::scope::{closed_for_tests, report_for_tests};

    const KEY: RouteKey = RouteKey {
        route: 3,
        method: KnownMethod::Get,
    };

    /// A request that has closed now after so many nanoseconds.
    fn close(extremes: &Extremes, nanos: u64) -> bool {
        let report = report_for_tests();
        let mut closed = closed_for_tests(&report, KEY, nanos);
        closed.start = Instant::now() - Duration::from_nanos(nanos);
        closed.arena.bytes = nanos as usize;
        let wants = extremes.wants(&closed);
        if wants {
            let mut report = closed.report();
            report.id = Some(nanos);
            extremes.add(&closed, &report);
        }
        wants
    }

    fn slowest(extremes: &Extremes) -> Vec<u64> {
        let read = extremes.read();
        let ids = |requests: &[PastRequest]| {
            requests
                .iter()
                .filter_map(|request| request.report.id)
                .collect::<Vec<_>>()
        };
        let Some((key, [largest, slowest])) = read.first() else {
            return Vec::new();
        };
        assert_eq!((*key, read.len()), (KEY, 1));
        assert_eq!(ids(largest), ids(slowest), "the same numbers");
        ids(slowest)
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_holds_the_largest_in_any_order_they_come() {
        // All orders of a small set would be many: a permutation by multiplication modulo a prime.
        for factor in 1..101_u64 {
            let extremes = Extremes::new(4);
            for n in 1..101 {
                close(&extremes, n * factor % 101);
            }
            assert_eq!(slowest(&extremes), [100, 99, 98, 97, 96, 95, 94, 93]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_among_them_takes_no_lock() {
        let extremes = Extremes::new(4);
        assert!((1..=8).all(|n| close(&extremes, n * 10)));
        assert!(!close(&extremes, 5) && !close(&extremes, 10));
        assert!(close(&extremes, 11));
        let _held = lock(&extremes.routes.get(KEY).tables);
        assert!(!close(&extremes, 11), "would wait for the lock otherwise");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_shown_for_five_to_ten_minutes() {
        let extremes = Extremes::new(4);
        close(&extremes, 1000);
        tokio::time::advance(INTERVAL - Duration::from_secs(1)).await;
        close(&extremes, 20);
        tokio::time::advance(Duration::from_secs(2)).await;
        close(&extremes, 30);
        assert_eq!(slowest(&extremes), [1000, 30, 20]);
        tokio::time::advance(INTERVAL - Duration::from_secs(3)).await;
        assert_eq!(slowest(&extremes), [1000, 30, 20]);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(slowest(&extremes), [30]);
        tokio::time::advance(3 * INTERVAL).await;
        assert!(slowest(&extremes).is_empty());
        close(&extremes, 1);
        assert_eq!(slowest(&extremes), [1]);
    }
}
