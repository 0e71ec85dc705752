use std::time::Duration;

use super::{handle::MemoryHandle, overruns::TaskOverruns};
use crate::{scope::RouteLabel, task::DetachedTasks};

/// How long the tasks of one route took to end after their request was cancelled.
///
/// Returned by [`MemoryHandle::cancel_latency`]. The percentiles come from a histogram, and differ from the
/// exact ones by at most 3 %. The maximum is exact.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelLatency {
    /// The route.
    pub route: RouteLabel,
    /// Requests with cancelled tasks that have all ended; never zero.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The maximum.
    pub max: Duration,
}

impl MemoryHandle {
    /// Returns how many tasks outlived the grace period of their request, by the source location that
    /// started them.
    ///
    /// The locations are sorted. With the `tracing` feature the first such task of each location is
    /// also logged as a warning.
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
    ///     scope.spawn(std::future::pending::<()>()); // ignores its token
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// drop(service.oneshot(Request::new(())).await?);
    /// tokio::time::sleep(Duration::from_millis(40)).await;
    ///
    /// let overruns = &layer.handle().task_overruns()[0];
    /// assert_eq!(overruns.location.expect("one of the first 256").file(), file!());
    /// assert_eq!((overruns.aborted, overruns.given_up), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn task_overruns(&self) -> Vec<TaskOverruns> {
        self.recorder.overruns.counts()
    }

    /// Returns counts of detached tasks by name, sorted by name.
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
    ///     scope.detach("audit", async {}).await.expect("the task returned");
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
    #[must_use]
    pub fn detached(&self) -> Vec<DetachedTasks> {
        self.layer.tasks.names.counts()
    }

    /// Returns how long tasks took to end after their request was cancelled, by route.
    ///
    /// The time runs from the cancellation, which is the end of the request, its deadline or a
    /// shutdown, to the end of the request's last task. Routes whose requests had no tasks to cancel
    /// are left out.
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
    #[must_use]
    pub fn cancel_latency(&self) -> Vec<CancelLatency> {
        self.recorder
            .stats
            .cancel_latencies()
            .into_iter()
            .map(|(number, latency)| CancelLatency {
                route: self.layer.routes.route(number).label.clone(),
                count: latency.count,
                p50: latency.percentile(0.5),
                p99: latency.percentile(0.99),
                max: latency.max,
            })
            .collect()
    }
}
