//! One `tracing` event for each request.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tracing::{Level, Span, field::Value};

use crate::{account::aside, cancel::Outcome, scope::Closed};

/// The levels of the events that a layer records when its requests close.
///
/// Given to [`MemoryLayerBuilder::log_requests`](crate::middleware::MemoryLayerBuilder::log_requests). The most
/// severe level that applies is used.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_memory::{MemoryLayer, observe::RequestLog};
/// use tracing::Level;
///
/// let log = RequestLog::new()
///     .bytes_above(16 << 20, Level::WARN)
///     .time_above(Duration::from_secs(2), Level::WARN)
///     .not_completed(Level::INFO);
/// let layer = MemoryLayer::builder().log_requests(log).build()?;
/// # let _ = layer;
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RequestLog {
    level: Level,
    bytes: Option<(u64, Level)>,
    time: Option<(u64, Level)>,
    not_completed: Option<Level>,
}

impl RequestLog {
    /// All requests at `DEBUG`.
    pub const fn new() -> Self {
        Self {
            level: Level::DEBUG,
            bytes: None,
            time: None,
            not_completed: None,
        }
    }

    /// Sets the level of all requests (`DEBUG` by default).
    pub const fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Sets the level of requests that allocated more than `bytes` of heap, or took more from their arena.
    pub const fn bytes_above(mut self, bytes: u64, level: Level) -> Self {
        self.bytes = Some((bytes, level));
        self
    }

    /// Sets the level of requests that were open for longer than `time`.
    pub const fn time_above(mut self, time: Duration, level: Level) -> Self {
        let nanos = time.as_nanos();
        let nanos = if nanos > u64::MAX as u128 {
            u64::MAX
        } else {
            nanos as u64
        };
        self.time = Some((nanos, level));
        self
    }

    /// Sets the level of requests with another outcome than [`Completed`](Outcome::Completed).
    pub const fn not_completed(mut self, level: Level) -> Self {
        self.not_completed = Some(level);
        self
    }

    /// The level of a request's event: the most severe one.
    fn level_of(&self, closed: &Closed<'_>) -> Level {
        let heap = closed.usage.as_ref().map(|usage| usage.bytes_allocated);
        let bytes = heap.unwrap_or(0).max(closed.arena.bytes as u64);
        let above = |limit: Option<(u64, Level)>, figure: u64| {
            limit.filter(|limit| figure > limit.0).map(|limit| limit.1)
        };
        let levels = [
            above(self.bytes, bytes),
            above(self.time, closed.total_time),
            self.not_completed
                .filter(|_| closed.reason.outcome() != Outcome::Completed),
        ];
        levels
            .into_iter()
            .flatten()
            .fold(self.level, |most, level| most.min(level))
    }

    /// Records the event of a request, and its figures in its span. Returns whether the subscriber has
    /// panicked.
    pub(super) fn record(&self, closed: &Closed<'_>) -> bool {
        // What a subscriber keeps is no figure of the request that this thread works for.
        let recorded = aside(|| catch_unwind(AssertUnwindSafe(|| self.record_in(closed))));
        recorded.is_err()
    }

    fn record_in(&self, closed: &Closed<'_>) {
        let span = closed.span.get();
        let figures = Figures::of(closed);
        figures.record(span);
        /// The level of an event is a constant.
        macro_rules! event {
            ($($level:ident)*) => {
                match self.level_of(closed) {
                    $(Level::$level => tracing::event!(
                        target: "tower_memory::request",
                        parent: span,
                        Level::$level,
                        memory.request_id = figures.id,
                        http.request.method = closed.key.method.as_str(),
                        http.route = closed.label.as_str(),
                        http.response.status_code = closed.status,
                        memory.outcome = figures.outcome,
                        memory.allocated_bytes = figures.bytes,
                        memory.allocations = figures.allocations,
                        memory.peak_bytes = figures.peak,
                        memory.arena_bytes = figures.arena,
                        memory.tasks = figures.tasks,
                        memory.head_seconds = figures.head,
                        memory.duration_seconds = figures.duration,
                        "request closed"
                    ),)*
                }
            };
        }
        event!(ERROR WARN INFO DEBUG TRACE);
    }
}

impl Default for RequestLog {
    fn default() -> Self {
        Self::new()
    }
}

/// What a span can be told. Figures that are not known are left out.
struct Figures {
    id: Option<u64>,
    outcome: &'static str,
    bytes: Option<u64>,
    allocations: Option<u64>,
    peak: Option<u64>,
    arena: u64,
    tasks: u64,
    head: Option<f64>,
    duration: f64,
}

impl Figures {
    fn of(closed: &Closed<'_>) -> Self {
        let usage = closed.usage.as_ref();
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        Self {
            id: Some(closed.id).filter(|id| *id != 0),
            outcome: closed.reason.outcome().as_str(),
            bytes: usage.map(|usage| usage.bytes_allocated),
            allocations: usage.map(|usage| usage.allocations),
            peak: usage.and_then(|usage| usage.peak_bytes),
            arena: closed.arena.bytes as u64,
            tasks: closed
                .tasks
                .as_ref()
                .map_or(0, |tasks| tasks.spawned as u64),
            head: closed.time_to_head.map(seconds),
            duration: seconds(closed.total_time),
        }
    }

    /// Records them in the fields that a span declares.
    fn record(&self, span: &Span) {
        let fields: [(&str, &dyn Value); 9] = [
            ("memory.request_id", &self.id),
            ("memory.outcome", &self.outcome),
            ("memory.allocated_bytes", &self.bytes),
            ("memory.allocations", &self.allocations),
            ("memory.peak_bytes", &self.peak),
            ("memory.arena_bytes", &self.arena),
            ("memory.tasks", &self.tasks),
            ("memory.head_seconds", &self.head),
            ("memory.duration_seconds", &self.duration),
        ];
        let Some(metadata) = span.metadata() else {
            return;
        };
        let declared = metadata.fields();
        for (name, value) in fields {
            if let Some(field) = declared.field(name) {
                span.record(&field, value);
            }
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::{
        route::{KnownMethod, RouteKey},
        scope::{closed_for_tests, report_for_tests},
    };

    #[test]
    fn the_most_severe_level_that_applies_is_used() {
        let report = report_for_tests();
        let key = RouteKey {
            route: 0,
            method: KnownMethod::Get,
        };
        let mut closed = closed_for_tests(&report, key, 1000);
        closed.arena.bytes = 100;
        let log = RequestLog::new().level(Level::TRACE);
        assert_eq!(log.level_of(&closed), Level::TRACE);
        let log = log.bytes_above(99, Level::INFO);
        assert_eq!(log.level_of(&closed), Level::INFO);
        let log = log.time_above(Duration::from_nanos(999), Level::DEBUG);
        assert_eq!(log.level_of(&closed), Level::INFO);
        let log = log.bytes_above(100, Level::INFO);
        assert_eq!(log.level_of(&closed), Level::DEBUG);
        let log = log
            .time_above(Duration::MAX, Level::ERROR)
            .not_completed(Level::ERROR);
        assert_eq!(log.level_of(&closed), Level::TRACE);
        closed.reason = crate::cancel::CancelReason::new(Outcome::Panicked);
        assert_eq!(log.level_of(&closed), Level::ERROR);
    }
}
