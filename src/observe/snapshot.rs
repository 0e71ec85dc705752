use std::{
    fmt::{self, Write},
    time::Duration,
};

use super::summary::{Summary, TimeSummary};
use crate::{cancel::Outcome, limit::LimitSnapshot, pool::PoolStats, scope::RouteLabel};

/// The statistics of a layer by route and method, and what is alive now.
///
/// Returned by [`MemoryHandle::snapshot`](crate::MemoryHandle::snapshot). Its `Display` is a table.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, Outcome};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::new();
/// let handle = layer.handle();
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(handle.snapshot().in_flight, 1, "until the body is dropped");
/// drop(response);
///
/// let snapshot = handle.snapshot();
/// assert_eq!((snapshot.in_flight, snapshot.pool.rented), (0, 0));
/// let route = &snapshot.routes[0];
/// assert_eq!((route.method, route.route.as_str(), route.requests), ("GET", "{unmatched}", 1));
/// assert_eq!(route.statuses, [0, 0, 1, 0, 0, 0], "one of 2xx");
/// assert_eq!(route.outcomes.get(Outcome::Completed), 1);
/// let arena = route.arena_bytes.as_ref().expect("a request has closed");
/// assert_eq!((arena.count, arena.mean()), (1, 0.0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Routes and methods that have had requests, in the order of each route's first request.
    pub routes: Vec<RouteSnapshot>,
    /// Requests whose scope is open. One that waits for the service to be ready has no scope yet.
    pub in_flight: usize,
    /// Tasks of requests that exist now, without detached ones.
    pub tasks: usize,
    /// Detached tasks that exist now.
    pub detached: usize,
    /// Requests with a cancellation token that is not cancelled yet.
    pub tokens: usize,
    /// Statistics of the pool; `pool.rented` is the number of arenas in use.
    pub pool: PoolStats,
    /// Values of trusted deadline headers that were malformed, and therefore ignored.
    pub unparsable_deadlines: u64,
    /// Values of a trusted `x-request-start` that were ignored because a clock must be wrong: a queueing
    /// time above [`max_queue_time`](crate::middleware::MemoryLayerBuilder::max_queue_time), or a start
    /// more than 1 s in the future.
    pub implausible_request_starts: u64,
    /// Panics of observers that were caught.
    pub observer_panics: u64,
    /// Reports that observers did not see, because 4096 others waited.
    pub dropped_reports: u64,
    /// Panics that the [housekeeping](crate::housekeeping) has caught, of all pools and layers.
    pub housekeeping_panics: u64,
    /// The figures of the [limit of the process](crate::limit::ProcessLimit), if the layer has one.
    pub limit: Option<LimitSnapshot>,
}

/// The statistics of one method of one route.
///
/// The statistics take at most 8 KiB, on however many threads the requests run: 0.9 KiB, and 64 bytes for
/// each power of two that values are spread over, for the values of one figure. Typical are 2 to 3 KiB.
/// If values of all figures together lie within more than 112 powers of two, those of further ones are
/// counted in the nearest bucket that there is; sums and maxima stay exact. The learned sizes take up
/// to 1 KiB more, and each thread up to 5 KiB for what it has not added yet, for all routes. There are ten
/// methods, and [at most `max_routes`](crate::middleware::MemoryLayerBuilder::max_routes) routes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteSnapshot {
    /// The method, as in [`ScopeReport::method`](crate::ScopeReport::method).
    pub method: &'static str,
    /// The route.
    pub route: RouteLabel,
    /// Requests so far, including those in flight.
    pub requests: u64,
    /// Requests whose scope is open.
    pub in_flight: usize,
    /// Heap bytes allocated so far by requests in flight that wait for more of their response body or
    /// hold an upgraded connection; `None` if there is none, or none was measured. Handlers that have not
    /// answered are not among them.
    pub open_bytes: Option<Summary>,
    /// Closed requests by outcome.
    pub outcomes: OutcomeCounts,
    /// Closed requests by the first digit of their response's status: `statuses[2]` counts 200 to 299.
    /// `statuses[0]` counts those without a response.
    pub statuses: [u64; 6],
    /// Heap bytes allocated per closed request; `None` if none was measured.
    pub bytes: Option<Summary>,
    /// Highest number of bytes that each closed request [held](crate::account::Usage::peak_bytes) at a
    /// time; `None` if it is known of none.
    pub peak_bytes: Option<Summary>,
    /// Heap allocations per closed request; `None` if none was measured.
    pub allocations: Option<Summary>,
    /// Bytes taken from the arena per closed request; `None` if none has closed.
    pub arena_bytes: Option<Summary>,
    /// Closed requests whose arena, or one of its buffers, came from the pool. Divided by the sum of this and
    /// [`arena_misses`](Self::arena_misses), it is the hit rate of the pool for this route.
    pub arena_hits: u64,
    /// Closed requests that used an arena, all of it new.
    pub arena_misses: u64,
    /// Initial capacity in bytes of the arena for the route's next request, without its buffers: the 95th
    /// percentile of recent requests that needed at most four times the median, rounded up by at most
    /// 1/8. `None` if no request has allocated in its arena.
    pub learned_arena_bytes: Option<usize>,
    /// Initial capacity in bytes of the next buffer: the same for the largest buffer of each request,
    /// rounded up to the size of a block. `None` if no request had a buffer.
    pub learned_buffer_bytes: Option<usize>,
    /// Frozen buffers that were handed out and are not released, because a server still has to send
    /// them, or the application keeps a slice; by the route at the time the request took its arena. Without
    /// those of up to 256 bytes, which are copied. `None` if no request has used an arena.
    pub unreleased_buffers: Option<usize>,
    /// Bytes of the blocks that these buffers keep.
    pub unreleased_bytes: Option<usize>,
    /// Arenas that are still in use although nothing refers to their request any more. `None` if no
    /// request has used an arena.
    pub arenas_left: Option<usize>,
    /// Bytes in blocks of 64 KiB and more that closed requests have allocated and that are not freed: what slow
    /// readers keep, caches, and leaks. `None` without a [`TrackingAllocator`](crate::TrackingAllocator).
    pub held_after_close: Option<u64>,
    /// Requests that held more than their
    /// [limit](crate::middleware::MemoryLayerBuilder::request_limit) and were answered nevertheless, since
    /// their handler neither waited nor checked before it was ready.
    pub over_limit: u64,
    /// Time from the call of the service to the response head, per closed request that had one; `None` if
    /// none had.
    pub time_to_head: Option<TimeSummary>,
    /// Sum of the times from the call of the service to the end of the response.
    pub time_to_end: Duration,
    /// Time from the call of the service to the close of the scope, tasks included, per closed request;
    /// `None` if none has closed.
    pub total_time: Option<TimeSummary>,
    /// Requests that would have been refused, while the limit of the process was in
    /// [`LimitMode::Observe`](crate::limit::LimitMode::Observe) or `Warn`. Those that were refused have the
    /// outcome `Shed`.
    pub would_refuse: u64,
    /// Requests that would have been cancelled in these modes. Those that were cancelled have the outcome
    /// `MemoryPressure`.
    pub would_cancel: u64,
    /// Requests that held more than their [limit](crate::middleware::MemoryLayerBuilder::request_limit) in these
    /// modes. Those that were ended have the outcome `MemoryExceeded`.
    pub would_exceed: u64,
}

/// The number of requests by [`Outcome`].
///
/// # Examples
///
/// ```
/// use tower_memory::{observe::OutcomeCounts, Outcome};
///
/// let counts = OutcomeCounts::default();
/// assert_eq!(counts.get(Outcome::Completed), 0);
/// assert_eq!(counts.total(), 0);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    counts: [u64; Outcome::ALL.len()],
}

impl OutcomeCounts {
    /// Returns the number of requests that ended with `outcome`.
    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.counts[outcome.index()]
    }

    /// Returns the number of requests that ended.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Iterates over the outcomes that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL
            .iter()
            .copied()
            .zip(self.counts)
            .filter(|&(_, count)| count > 0)
    }

    pub(super) fn since(mut self, earlier: &Self) -> Self {
        for (count, earlier) in self.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(earlier);
        }
        self
    }

    /// Adds so many requests whose outcome has this index.
    #[inline]
    pub(super) fn add(&mut self, outcome: usize, requests: u64) {
        self.counts[outcome] += requests;
    }
}

impl fmt::Debug for OutcomeCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The head of the table that [`Snapshot`] is displayed as.
const HEAD: [&str; 13] = [
    "method",
    "route",
    "requests",
    "in flight",
    "open bytes",
    "mean bytes",
    "max bytes",
    "max peak",
    "mean count",
    "mean arena",
    "learned arena",
    "statuses",
    "outcomes",
];

/// The columns of [`HEAD`] that hold numbers.
const NUMBERS: std::ops::Range<usize> = 2..11;

impl RouteSnapshot {
    /// The cells below [`HEAD`]; `-` where nothing is known.
    fn row(&self) -> [String; HEAD.len()] {
        let known = |figure: Option<String>| figure.unwrap_or_else(|| "-".into());
        let mean = |of: &Option<Summary>| known(of.as_ref().map(|of| format!("{:.1}", of.mean())));
        let max = |of: &Option<Summary>| known(of.as_ref().map(|of| of.max.to_string()));
        let statuses = self.statuses.iter().enumerate();
        let statuses: Vec<_> = statuses
            .filter(|(_, count)| **count > 0)
            .map(|(class, count)| match class {
                0 => format!("none {count}"),
                class => format!("{class}xx {count}"),
            })
            .collect();
        let outcomes = self.outcomes.iter();
        let outcomes: Vec<_> = outcomes
            .map(|(how, count)| format!("{how} {count}"))
            .collect();
        [
            self.method.to_owned(),
            self.route.to_string(),
            self.requests.to_string(),
            self.in_flight.to_string(),
            known(
                self.open_bytes
                    .as_ref()
                    .map(|bytes| bytes.total.to_string()),
            ),
            mean(&self.bytes),
            max(&self.bytes),
            max(&self.peak_bytes),
            mean(&self.allocations),
            mean(&self.arena_bytes),
            known(self.learned_arena_bytes.map(|bytes| bytes.to_string())),
            statuses.join(", "),
            outcomes.join(", ") + &self.held(),
        ]
    }

    /// What requests of the past keep, if anything.
    fn held(&self) -> String {
        let mut text = String::new();
        if let (Some(buffers @ 1..), Some(bytes)) = (self.unreleased_buffers, self.unreleased_bytes)
        {
            text += &format!(", unreleased buffers {buffers} ({bytes} bytes)");
        }
        if let Some(arenas @ 1..) = self.arenas_left {
            text += &format!(", arenas left {arenas}");
        }
        if let Some(bytes @ 1..) = self.held_after_close {
            text += &format!(", held after close {bytes} bytes");
        }
        text
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.routes.iter().map(RouteSnapshot::row);
        let rows: Vec<_> = std::iter::once(HEAD.map(String::from))
            .chain(rows)
            .collect();
        let widths: [usize; HEAD.len()] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        });
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let gap = if column > 0 { "  " } else { "" };
                // Numbers end at the right edge of their column.
                let result = if NUMBERS.contains(&column) {
                    write!(line, "{gap}{cell:>width$}")
                } else {
                    write!(line, "{gap}{cell:width$}")
                };
                result?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(
            f,
            "in flight {}, tasks {}, tokens {}, arenas rented {} ({} bytes), buffers {} ({} bytes), \
             pooled {} ({} bytes)",
            self.in_flight,
            self.tasks,
            self.tokens,
            self.pool.rented,
            self.pool.rented_bytes,
            self.pool.buffers,
            self.pool.buffer_bytes,
            self.pool.pooled + self.pool.pooled_buffers,
            self.pool.pooled_bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_place() {
        let mut counts = OutcomeCounts::default();
        for (at, outcome) in Outcome::ALL.iter().copied().enumerate() {
            for _ in 0..=at {
                counts.add(outcome.index(), 1);
            }
        }
        for (at, outcome) in Outcome::ALL.iter().copied().enumerate() {
            assert_eq!(counts.get(outcome), at as u64 + 1);
        }
        assert_eq!(counts.total(), 78);
    }
}
