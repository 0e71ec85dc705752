use std::time::Duration;

use super::{
    recorder::Recorder,
    row::Figure,
    snapshot::{RouteSnapshot, Snapshot},
    summary::Summary,
};
use crate::{
    account::is_installed,
    histogram::{Histograms, LARGEST},
    limit::{Pressure, ProcessLimit},
    pool::ArenaPool,
    scope::{ArenaSource, LayerState, TaskReport},
    sync::{Arc, Ordering},
};

/// Shows what a layer does from outside of any request, and shuts it down.
///
/// | to | call |
/// |---|---|
/// | read statistics by route, and what is alive now | [`snapshot`](Self::snapshot) |
/// | see single requests: the open ones, the largest and the slowest | [`requests`](Self::requests), [`extremes`](Self::extremes) |
/// | find tasks that outlive their request | [`outliving`](Self::outliving), [`task_overruns`](Self::task_overruns) |
/// | end all requests | [`shutdown`](Self::shutdown) |
/// | see how fast tasks react to a cancellation | [`cancel_latency`](Self::cancel_latency) |
/// | count detached tasks | [`detached`](Self::detached) |
///
/// Returned by [`MemoryLayer::handle`](crate::MemoryLayer::handle). Clones refer to the same layer and
/// are cheap.
///
/// # Examples
///
/// ```
/// use tower_memory::MemoryLayer;
///
/// let layer = MemoryLayer::new();
/// let handle = layer.handle();
/// let snapshot = handle.snapshot();
/// assert_eq!(snapshot.in_flight, 0);
/// assert!(snapshot.routes.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct MemoryHandle {
    pub(crate) layer: Arc<LayerState>,
    pub(super) recorder: Arc<Recorder>,
}

impl MemoryHandle {
    pub(crate) const fn new(layer: Arc<LayerState>, recorder: Arc<Recorder>) -> Self {
        Self { layer, recorder }
    }

    /// The layer was applied to a service of type `S`.
    pub(crate) fn applied_to<S>(&self) {
        self.recorder.coverage.applied_to::<S>();
    }

    /// Returns the statistics of each route, and what is alive now.
    ///
    /// The values are read one after the other. While requests run, each is exact when it is read.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let open = self.layer.shutdown.open_usages();
        let left = self.layer.leftovers.held();
        let rows = self.recorder.stats.rows().into_iter();
        let routes: Vec<_> = rows
            .map(|(key, row)| {
                let route = self.layer.routes.route(key.route);
                let mut open_bytes = Histograms::<1, LARGEST>::default();
                let open = open.iter().filter(|open| open.0 == key);
                open_bytes.extend(0, open.map(|open| (open.1.bytes_allocated, 1)));
                let limited = self.layer.limit.as_ref();
                let limited = limited.and_then(|limit| limit.peaks.get(key));
                let sizes = &route.sizes;
                let origin = sizes.origin(key.method.index());
                let out = origin.map(|origin| self.layer.pool.handed_out(origin));
                RouteSnapshot {
                    method: key.method.as_str(),
                    route: route.label.clone(),
                    requests: row.opened,
                    in_flight: usize::try_from(row.open()).unwrap_or(0),
                    open_bytes: Summary::of(&open_bytes, 0),
                    outcomes: row.outcomes,
                    statuses: row.statuses,
                    bytes: row.summary(Figure::Bytes),
                    peak_bytes: row.summary(Figure::PeakBytes),
                    allocations: row.summary(Figure::Allocations),
                    arena_bytes: row.summary(Figure::ArenaBytes),
                    arena_hits: row.arenas[ArenaSource::Pool.index()],
                    arena_misses: row.arenas[ArenaSource::Fresh.index()],
                    learned_arena_bytes: sizes.arena_bytes(key.method.index()),
                    learned_buffer_bytes: sizes.buffer_bytes(key.method.index()),
                    unreleased_buffers: out.map(|out| out.blocks),
                    unreleased_bytes: out.map(|out| out.bytes),
                    arenas_left: out.map(|out| out.arenas),
                    held_after_close: is_installed().then(|| left.get(&key).copied().unwrap_or(0)),
                    over_limit: row.over_limit,
                    time_to_head: row.times(Figure::TimeToHead),
                    time_to_end: Duration::from_nanos(row.time_to_end),
                    total_time: row.times(Figure::TotalTime),
                    would_refuse: limited.map_or(0, |entry| entry.would_refuse()),
                    would_cancel: limited.map_or(0, |entry| entry.would_cancel()),
                    would_exceed: limited.map_or(0, |entry| entry.would_exceed()),
                }
            })
            .collect();
        let layer = &self.layer;
        Snapshot {
            in_flight: routes.iter().map(|route| route.in_flight).sum(),
            routes,
            tasks: layer.bound().len(),
            detached: layer.tasks.detached.len(),
            tokens: layer.bound().with_tokens(),
            pool: layer.pool.stats(),
            // Relaxed: counters, which publish no other memory.
            unparsable_deadlines: layer.unparsable_deadlines.load(Ordering::Relaxed),
            implausible_request_starts: layer.implausible_starts.load(Ordering::Relaxed),
            observer_panics: self.recorder.observers.panics.load(Ordering::Relaxed),
            dropped_reports: self.recorder.observers.dropped.load(Ordering::Relaxed),
            housekeeping_panics: layer.housekeeping.panics(),
            limit: self.limit().map(|limit| limit.snapshot()),
        }
    }

    /// Returns the tasks that are alive although their request has ended, oldest first.
    ///
    /// During the grace period these are tasks that are shutting down. Tasks that stay longer block
    /// their thread ([`running`](TaskReport::running)) or were detached.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::new();
    /// let service = layer.layer(service_fn(|request: Request<()>| async move {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
    ///     scope.detach("audit", std::future::pending::<()>());
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// drop(service.oneshot(Request::new(())).await?);
    ///
    /// let outliving = layer.handle().outliving();
    /// assert_eq!(outliving[0].name, Some("audit"));
    /// assert_eq!(outliving[0].location.file(), file!());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn outliving(&self) -> Vec<TaskReport> {
        self.layer.tasks.reports(&self.layer.bound(), true, &[])
    }

    /// Calls the layer's observers with all reports that wait, on this thread, and returns when they have
    /// seen them.
    ///
    /// Observers are called a moment after a request has closed (see
    /// [`MemoryLayerBuilder::observe`](crate::middleware::MemoryLayerBuilder::observe)). For tests, and for
    /// the end of a program that calls no [`shutdown`](Self::shutdown). Does nothing if an observer calls
    /// it.
    ///
    /// # Examples
    ///
    /// See [`MemoryLayerBuilder::observe`](crate::middleware::MemoryLayerBuilder::observe).
    pub fn flush_observers(&self) {
        self.recorder.observers.flush();
    }

    /// Returns the limit of the process, if the layer has one: to change it, or to ask whether the process is
    /// [ready](ProcessLimit::is_ready).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{MemoryLayer, limit::{LimitMode, ProcessLimit}};
    ///
    /// let limit = ProcessLimit::builder().bytes(1 << 30).build()?;
    /// let handle = MemoryLayer::builder().process_limit(&limit).build()?.handle();
    /// let limit = handle.limit().expect("it has one");
    /// limit.set_mode(LimitMode::Observe);
    /// assert!(limit.is_ready());
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    #[must_use]
    pub fn limit(&self) -> Option<ProcessLimit> {
        self.layer.limit.as_ref().map(ProcessLimit::of)
    }

    /// Returns how tight memory is; `None` if the layer has no limit for the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{MemoryLayer, limit::{ProcessLimit, Stage}};
    ///
    /// let limit = ProcessLimit::builder().bytes(100 << 20).source(|| Some(75 << 20)).build()?;
    /// let handle = MemoryLayer::builder().process_limit(&limit).build()?.handle();
    /// assert_eq!(handle.pressure().expect("it has one").stage, Stage::Trim);
    /// assert_eq!(MemoryLayer::new().handle().pressure(), None);
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    #[must_use]
    pub fn pressure(&self) -> Option<Pressure> {
        Some(self.layer.limit.as_ref()?.pressure())
    }

    /// Returns the pool that the layer rents its arenas from.
    #[must_use]
    pub fn pool(&self) -> &ArenaPool {
        &self.layer.pool
    }
}
