use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::annotations::Annotations;
use crate::{
    account::Usage,
    cancel::{CancelReason, DeadlineSource, Outcome},
    route::{RouteKey, RouteLabel},
    task::{TaskFigures, TaskReport, TaskSpan},
};

/// Where a request's arena came from.
///
/// # Examples
///
/// ```
/// use tower_memory::scope::ArenaSource;
///
/// assert_eq!(ArenaSource::Pool.as_str(), "pool");
/// assert_eq!(ArenaSource::Unused.to_string(), "unused");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArenaSource {
    /// Created for this request, because the pool had none.
    Fresh,
    /// A recycled arena, taken from the pool.
    Pool,
    /// The request used no arena.
    Unused,
}

impl ArenaSource {
    /// A number that stands for it in tables, below three.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Unused => 0,
            Self::Fresh => 1,
            Self::Pool => 2,
        }
    }

    /// Returns the name, as in the `x-arena-source` header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Pool => "pool",
            Self::Unused => "unused",
        }
    }
}

impl fmt::Display for ArenaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a request took from its arena.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope, scope::ArenaSource};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     assert_eq!(scope.arena_usage().source, ArenaSource::Unused);
///     scope.arena().alloc([7_u8; 100]);
///     let usage = scope.arena_usage();
///     assert_eq!((usage.source, usage.bytes), (ArenaSource::Fresh, 100));
///     assert!(usage.capacity >= 100);
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// drop(service.oneshot(Request::new(())).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaUsage {
    /// Where the arena came from.
    pub source: ArenaSource,
    /// The most bytes that were in use so far, padding included: those of the arena, and those that its
    /// buffers held at the same time. What was given back, frozen or sent still counts.
    pub bytes: usize,
    /// Bytes the arena has now, for this request or from an earlier one, with the buffers that are
    /// neither frozen nor dropped.
    pub capacity: usize,
}

/// The figures of one request, made when its scope has closed.
///
/// Passed to the [observers](crate::middleware::MemoryLayerBuilder::observe). Its `Display` is one line
/// for a log:
/// "GET /items/{n}: 200 completed after 1.5ms, 412 bytes in 7 allocations, 24576 bytes of arena (pool)".
/// The time to the head is added for responses that took longer, and the time to the close for scopes
/// that stayed open for their tasks.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, sync::mpsc};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, Outcome, RequestScope, ScopeReport, scope::ArenaSource};
///
/// let (sender, reports) = mpsc::channel();
/// let layer = MemoryLayer::builder().observe(move |report: &ScopeReport| {
///     let _ = sender.send(report.clone());
/// }).build()?;
/// let service = layer.layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("inside of the layer");
///     let text = scope.arena().alloc_str("hello");
///     assert_eq!(text, "hello");
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// let response = runtime.block_on(service.oneshot(Request::new(()))).expect("infallible");
/// drop(response);
///
/// let report = reports.recv().expect("the scope has closed");
/// assert_eq!(report.outcome, Outcome::Completed);
/// assert_eq!((report.method, report.route.as_str()), ("GET", "{unmatched}"));
/// assert_eq!(report.status, Some(200));
/// assert_eq!(report.arena.source, ArenaSource::Fresh);
/// assert!(report.arena.bytes >= 5 && report.tasks_spawned == 0);
/// assert!(report.to_string().starts_with("GET {unmatched}: 200 completed after "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeReport {
    /// The number of the request, as [`RequestScope::id`](crate::RequestScope::id): known if that was called,
    /// or the layer [lists requests](crate::middleware::MemoryLayerBuilder::list_requests).
    pub id: Option<u64>,
    /// The method of the request, or `other` for methods other than the eight of
    /// [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-9) and `PATCH`.
    pub method: &'static str,
    /// The route of the request.
    pub route: RouteLabel,
    /// The status of the response; `None` if there was none.
    pub status: Option<u16>,
    /// How the request ended.
    pub outcome: Outcome,
    /// The source of the deadline, if the outcome is `DeadlineExceeded`.
    pub deadline_source: Option<DeadlineSource>,
    /// Heap allocations of the request, including its body and tasks; `None` if not known.
    pub usage: Option<Usage>,
    /// Use of the arena.
    pub arena: ArenaUsage,
    /// Time from the call of the service to the response head; `None` if there was none.
    pub time_to_head: Option<Duration>,
    /// Time from the call of the service to the end of the response or, on an upgraded connection, of
    /// the last hold. Tasks may run longer.
    pub time_to_end: Duration,
    /// Time from the call of the service to the close of the scope, after the last task.
    pub total_time: Duration,
    /// Tasks started with `RequestScope::spawn`, `spawn_local` and `spawn_blocking`, and tracked futures.
    pub tasks_spawned: usize,
    /// Tasks that exceeded their grace period and were dropped.
    pub tasks_aborted: usize,
    /// Tasks that exceeded their grace period and could not be dropped, because they blocked their
    /// thread or, if [tracked](crate::RequestScope::track), were not polled. They still existed when the scope
    /// closed.
    pub tasks_given_up: usize,
    /// The aborted tasks and those given up, as they were at the end of their grace period; the first
    /// 64 of them.
    pub overruns: Vec<TaskReport>,
    /// Time from the cancellation to the end of the last task; `None` if there was no task to cancel,
    /// or one still runs.
    pub cancel_latency: Option<Duration>,
    /// What the application added with `RequestScope::annotate`.
    pub annotations: Vec<(&'static str, String)>,
}

impl fmt::Display for ScopeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.method, self.route)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        write!(f, "{}", self.outcome)?;
        if let Some(source) = self.deadline_source {
            write!(f, " ({source})")?;
        }
        write!(f, " after {:.1?}", self.time_to_end)?;
        // A response that is complete at once needs no second time.
        let apart = |head: &Duration| self.time_to_end.saturating_sub(*head) >= SHOWN_APART;
        if let Some(head) = self.time_to_head.filter(apart) {
            write!(f, " (head after {head:.1?})")?;
        }
        if self.total_time.saturating_sub(self.time_to_end) >= SHOWN_APART {
            write!(f, ", closed after {:.1?}", self.total_time)?;
        }
        if let Some(usage) = &self.usage {
            let bytes = Counted(usage.bytes_allocated, "byte");
            let allocations = Counted(usage.allocations, "allocation");
            write!(f, ", {bytes} in {allocations}")?;
        }
        if self.arena.source != ArenaSource::Unused {
            let ArenaUsage { bytes, source, .. } = self.arena;
            write!(f, ", {} of arena ({source})", Counted(bytes as u64, "byte"))?;
        }
        for (what, count) in [
            ("tasks", self.tasks_spawned),
            ("aborted", self.tasks_aborted),
            ("given up", self.tasks_given_up),
        ] {
            if count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        for (key, value) in &self.annotations {
            write!(f, ", {key}={value:?}")?;
        }
        Ok(())
    }
}

/// A time is displayed beside another one if they differ by this much.
const SHOWN_APART: Duration = Duration::from_micros(100);

/// A number of things, displayed with their name.
struct Counted(u64, &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, name) = *self;
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{count} {name}{s}")
    }
}

/// The figures of a closed scope, as they are passed on inside the crate. A [`ScopeReport`] clones its
/// label, so it is made only if there is an observer.
#[derive(Debug)]
pub(crate) struct Closed<'a> {
    /// The number of the request, or zero if it has none.
    pub(crate) id: u64,
    pub(crate) start: Instant,
    #[cfg_attr(
        not(feature = "tracing"),
        expect(dead_code, reason = "spans are of `tracing`")
    )]
    pub(crate) span: &'a TaskSpan,
    pub(crate) key: RouteKey,
    pub(crate) label: &'a RouteLabel,
    pub(crate) status: Option<u16>,
    pub(crate) reason: CancelReason,
    pub(crate) usage: Option<&'a Usage>,
    pub(crate) arena: ArenaUsage,
    /// Nanoseconds, here and below.
    pub(crate) time_to_head: Option<u64>,
    pub(crate) time_to_end: u64,
    pub(crate) total_time: u64,
    /// Of a request that has used its group of tasks.
    pub(crate) tasks: Option<TaskFigures>,
    pub(crate) annotations: Option<&'a Annotations>,
}

impl Closed<'_> {
    pub(crate) fn report(&self) -> ScopeReport {
        let tasks = self.tasks.as_ref();
        let count = |of: fn(&TaskFigures) -> usize| tasks.map_or(0, of);
        ScopeReport {
            id: Some(self.id).filter(|id| *id != 0),
            method: self.key.method.as_str(),
            route: self.label.clone(),
            status: self.status,
            outcome: self.reason.outcome(),
            deadline_source: self.reason.deadline_source(),
            usage: self.usage.copied(),
            arena: self.arena,
            time_to_head: self.time_to_head.map(Duration::from_nanos),
            time_to_end: Duration::from_nanos(self.time_to_end),
            total_time: Duration::from_nanos(self.total_time),
            tasks_spawned: count(|tasks| tasks.spawned),
            tasks_aborted: count(|tasks| tasks.aborted),
            tasks_given_up: count(|tasks| tasks.given_up),
            overruns: tasks.map_or_else(Vec::new, |tasks| tasks.overruns.clone()),
            cancel_latency: self.cancel_latency(),
            annotations: self.annotations.map(Annotations::take).unwrap_or_default(),
        }
    }

    /// Time from the cancellation to the end of the last task, if known.
    pub(crate) fn cancel_latency(&self) -> Option<Duration> {
        self.tasks.as_ref()?.cancel_latency
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
pub(crate) use self::tests::{closed as closed_for_tests, report as report_for_tests};

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::route::RouteRegistry;

    static NO_SPAN: TaskSpan = TaskSpan::none();

    /// The figures of a request that took `nanos`.
    pub(crate) fn closed(report: &ScopeReport, key: RouteKey, nanos: u64) -> Closed<'_> {
        Closed {
            id: 0,
            start: Instant::now(),
            span: &NO_SPAN,
            key,
            label: &report.route,
            status: Some(200),
            reason: CancelReason::new(report.outcome),
            usage: None,
            arena: report.arena,
            time_to_head: Some(nanos / 2),
            time_to_end: nanos,
            total_time: nanos,
            tasks: None,
            annotations: None,
        }
    }

    pub(crate) fn report() -> ScopeReport {
        ScopeReport {
            id: None,
            method: "GET",
            route: RouteRegistry::new(0).route(0).label.clone(),
            status: None,
            outcome: Outcome::Completed,
            deadline_source: None,
            usage: None,
            arena: ArenaUsage {
                source: ArenaSource::Unused,
                bytes: 0,
                capacity: 0,
            },
            time_to_head: None,
            time_to_end: Duration::from_micros(1500),
            total_time: Duration::from_micros(1500),
            tasks_spawned: 0,
            tasks_aborted: 0,
            tasks_given_up: 0,
            overruns: Vec::new(),
            cancel_latency: None,
            annotations: Vec::new(),
        }
    }

    #[test]
    fn a_report_is_one_line_of_what_is_known_and_not_usual() {
        let plain = report();
        assert_eq!(plain.to_string(), "GET {unmatched}: completed after 1.5ms");
        let mut usage = Usage::default();
        (usage.heap.bytes_allocated, usage.heap.allocations) = (412, 7);
        let full = ScopeReport {
            outcome: Outcome::DeadlineExceeded,
            deadline_source: Some(DeadlineSource::Layer),
            usage: Some(usage),
            arena: ArenaUsage {
                source: ArenaSource::Pool,
                bytes: 24_576,
                capacity: 32_768,
            },
            status: Some(504),
            time_to_head: Some(Duration::from_micros(1399)),
            total_time: Duration::from_micros(307_800),
            tasks_spawned: 3,
            tasks_aborted: 2,
            tasks_given_up: 1,
            annotations: vec![("id", "7\n".into())],
            ..report()
        };
        assert_eq!(
            full.to_string(),
            "GET {unmatched}: 504 deadline_exceeded (the layer) after 1.5ms (head after 1.4ms), \
             closed after 307.8ms, 412 bytes in 7 allocations, 24576 bytes of arena (pool), tasks 3, aborted 2, given up 1, id=\"7\\n\""
        );
        assert_ne!(full, plain);
        assert_eq!(plain, report());
    }
}
