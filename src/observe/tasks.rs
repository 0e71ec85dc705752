use std::{panic::Location, time::Duration};

use super::handle::MemoryHandle;
use crate::scope::{RouteLabel, TaskReport};

/// How long the tasks of one route took to end once their request was cancelled.
///
/// Made by [`MemoryHandle::cancel_latency`]. The percentiles come from a histogram whose buckets
/// are an eighth wide, and are never too low; the maximum is exact.
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
///     let token = scope.child_token();
///     scope.spawn(async move { token.cancelled().await });
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// drop(service.oneshot(Request::new(())).await?);
/// let handle = layer.handle();
/// while handle.snapshot().tasks > 0 {
///     tokio::task::yield_now().await;
/// }
///
/// let latency = &handle.cancel_latency()[0];
/// assert_eq!((latency.route.as_str(), latency.count), ("{unmatched}", 1));
/// assert!(latency.max <= latency.p99 && latency.p50 == latency.p99);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelLatency {
    /// The route.
    pub route: RouteLabel,
    /// Requests that had tasks to cancel, and whose tasks are over; never zero.
    pub count: u64,
    /// Half of them took at most this long.
    pub p50: Duration,
    /// 99 of 100 took at most this long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// The detached tasks of one name.
///
/// Made by [`MemoryHandle::detached`].
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
///     scope.detach("audit", async {}).await.expect("it has returned");
///     scope.detach("audit", std::future::pending::<()>());
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// drop(service.oneshot(Request::new(())).await?);
///
/// let audit = &layer.handle().detached()[0];
/// assert_eq!((audit.name, audit.started, audit.alive), ("audit", 2, 1));
/// assert_eq!(audit.bytes, None, "no `TrackingAllocator` is installed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DetachedTasks {
    /// The name given to `RequestScope::detach`, or `{other}` for those beyond the bound of 256.
    pub name: &'static str,
    /// Tasks so far.
    pub started: u64,
    /// Those that exist.
    pub alive: usize,
    /// Heap bytes that the ended ones allocated; `None` if none was measured.
    pub bytes: Option<u64>,
}

/// How many tasks that were started at one place still ran when their grace was over.
///
/// Made by [`MemoryHandle::task_overruns`].
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::builder().grace_period(Duration::from_millis(20)).build()?;
/// let service = layer.layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     scope.spawn(std::future::pending::<()>()); // does not look at its token
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// drop(service.oneshot(Request::new(())).await?);
/// tokio::time::sleep(Duration::from_millis(40)).await;
///
/// let overruns = &layer.handle().task_overruns()[0];
/// assert_eq!(overruns.location.expect("one of the first").file(), file!());
/// assert_eq!((overruns.aborted, overruns.given_up), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOverruns {
    /// The place; `None` for all beyond the bound of 256.
    pub location: Option<&'static Location<'static>>,
    /// Tasks that were dropped.
    pub aborted: u64,
    /// Tasks that held their thread and were left running.
    pub given_up: u64,
}

impl MemoryHandle {
    /// The tasks that exist though their request has ended, oldest first.
    ///
    /// Right after the end of a request these are tasks that have not been told yet, and for the
    /// time of the grace those that tidy up. Tasks that stay longer hold their thread
    /// ([`running`](TaskReport::running)), or were detached.
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
        self.layer.tasks.reports(true)
    }

    /// The places in the program whose tasks still ran when their grace was over, and how many did,
    /// in the order of the source.
    ///
    /// With the `tracing` feature the first task of each place is also a warning.
    #[must_use]
    pub fn task_overruns(&self) -> Vec<TaskOverruns> {
        let counts = self.recorder.overruns.counts();
        counts
            .into_iter()
            .map(|(location, counts)| TaskOverruns {
                location,
                aborted: counts.aborted,
                given_up: counts.given_up,
            })
            .collect()
    }

    /// Detached tasks by name, in the order of the names.
    #[must_use]
    pub fn detached(&self) -> Vec<DetachedTasks> {
        let counts = self.layer.tasks.name_counts();
        counts
            .into_iter()
            .map(|count| DetachedTasks {
                name: count.name,
                started: count.started,
                alive: count.alive,
                bytes: (count.measured > 0).then_some(count.bytes),
            })
            .collect()
    }

    /// Of each route whose requests had tasks to cancel: how long it took from the cancellation
    /// (the end of the request, its deadline, a shutdown) to the end of the last task.
    #[must_use]
    pub fn cancel_latency(&self) -> Vec<CancelLatency> {
        self.recorder
            .stats
            .cancel_latencies()
            .map(|(number, found)| CancelLatency {
                route: self.layer.routes.route(number).label.clone(),
                count: found.count,
                p50: found.p50,
                p99: found.p99,
                max: found.max,
            })
            .collect()
    }
}
