use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use super::handle::MemoryHandle;
use crate::{
    housekeeping::Timer,
    route::RouteKey,
    scope::{Exempt, LayerState, RequestScope, RouteLabel, TaskReport},
    sync::Arc,
    task::TaskId,
};

/// What was still running at the end of a [shutdown](MemoryHandle::shutdown).
///
/// Its `Display` has a line for each route and each task.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::MemoryLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::builder().route("reports").build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let unsent = service.oneshot(Request::new(())).await?;
///
/// let report = layer.handle().shutdown(Duration::ZERO).await;
/// assert!(!report.is_clean() && report.tasks.is_empty());
/// let open = &report.requests[0];
/// assert_eq!((open.route.as_str(), open.count), ("reports", 1));
/// assert!(report.to_string().ends_with("GET reports: 1 request open"));
///
/// drop(unsent);
/// assert!(layer.handle().shutdown(Duration::ZERO).await.is_clean());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How long the shutdown waited.
    pub elapsed: Duration,
    /// Requests that are still open, by route and method.
    pub requests: Vec<OpenRequests>,
    /// Tasks that are still alive, including detached ones, oldest first.
    pub tasks: Vec<TaskReport>,
    /// Open requests and tasks that were not waited for, and are not listed: they wait for a shutdown
    /// themselves, or are
    /// [served during it](crate::middleware::MemoryLayerBuilder::serve_while_draining).
    pub exempt: usize,
    /// Response bodies and upgraded connections that were
    /// [cut off](MemoryHandle::shutdown_and_cut_off). Their requests and tasks are listed as they were
    /// before.
    pub cut_off: usize,
}

/// The open requests of one method and route, in a [`ShutdownReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenRequests {
    /// The method, as in [`ScopeReport::method`](crate::ScopeReport::method).
    pub method: &'static str,
    /// The route.
    pub route: RouteLabel,
    /// The number of open requests; never zero.
    pub count: usize,
}

impl ShutdownReport {
    /// Returns whether all requests and tasks ended in time.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.requests.is_empty() && self.tasks.is_empty()
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = if self.is_clean() {
            ("all stopped within", "")
        } else {
            ("still running after", ":")
        };
        write!(f, "{start} {:.1?}", self.elapsed)?;
        if self.exempt > 0 {
            write!(f, ", not counting {} exempt", self.exempt)?;
        }
        if self.cut_off > 0 {
            write!(f, ", {} cut off", self.cut_off)?;
        }
        f.write_str(end)?;
        for open in &self.requests {
            let s = if open.count == 1 { "" } else { "s" };
            let OpenRequests {
                method,
                route,
                count,
            } = open;
            write!(f, "\n  {method} {route}: {count} request{s} open")?;
        }
        for task in &self.tasks {
            write!(f, "\n  {task}")?;
        }
        Ok(())
    }
}

impl MemoryHandle {
    /// Cancels all open requests and waits until they have ended, for at most `grace`.
    ///
    /// - The tokens of open requests are cancelled with
    ///   [`Outcome::Shutdown`](crate::Outcome::Shutdown), which is also how these requests end.
    ///   Their tasks get the grace period of the layer. Sockets and streamed bodies that watch the
    ///   token can end.
    /// - Handlers keep running, and their responses are still sent.
    /// - New requests are refused with `503` (gRPC: `UNAVAILABLE`). Their handler does not run, so a
    ///   client may retry them elsewhere.
    /// - Detached tasks are waited for, but not cancelled.
    /// - Observers are called with the reports that wait.
    /// - A request or task that itself awaits this, such as a handler of `/drain`, is not waited for. Other
    ///   tasks of such a request are. Tasks started with `tokio::spawn` are not known to belong to it.
    /// - Requests that the layer [serves while draining] are neither cancelled nor waited for.
    ///
    /// [serves while draining]: crate::middleware::MemoryLayerBuilder::serve_while_draining
    ///
    /// Returns what was still running at the end. Nothing is aborted by force. The layer does not
    /// control the server, which has to stop accepting connections by itself.
    ///
    /// A shutdown cannot be undone. A second call waits for what is left.
    ///
    /// # Cancel safety
    ///
    /// The shutdown begins with the first poll. Dropping the future only stops waiting.
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "axum", doc = "```no_run")]
    #[cfg_attr(not(feature = "axum"), doc = "```text")]
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use tower_memory::MemoryLayer;
    ///
    /// # async fn serve() -> std::io::Result<()> {
    /// let memory = MemoryLayer::new();
    /// let handle = memory.handle();
    /// let app = Router::new().layer(memory);
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    ///
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let server = axum::serve(listener, app).with_graceful_shutdown(async { _ = stopped.await });
    /// let server = tokio::spawn(async move { server.await });
    ///
    /// tokio::signal::ctrl_c().await?;
    /// let _ = stop.send(()); // no further connections
    /// let report = handle.shutdown(Duration::from_secs(10)).await;
    /// println!("{report}");
    /// if report.is_clean() {
    ///     server.await??;
    /// }
    /// # Ok(())
    /// # }
    /// # let _ = serve;
    /// ```
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let start = Instant::now();
        let layer = &self.layer;
        layer.shut_down();
        let _waiting = Waiting::new(layer);
        let over = async {
            loop {
                // Register before checking, so that no change after the check is missed.
                let mut change = pin!(layer.shutdown.next_change());
                change.as_mut().enable();
                if self.is_idle() {
                    return;
                }
                change.await;
            }
        };
        let end = start.checked_add(grace);
        let (mut over, mut timer) = (pin!(over), Timer::new());
        let stopped = poll_fn(|cx| match over.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if end.is_some_and(|end| timer.poll(end, cx)) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await;
        let elapsed = start.elapsed();
        self.observed(end).await;
        let exempt = layer.shutdown.exempted();
        let (mut requests, mut tasks) = (Vec::new(), Vec::new());
        // Not read again after a clean stop, since requests that are being refused would show up.
        if !stopped {
            let but: Vec<TaskId> = exempt.iter().filter_map(Exempt::task).collect();
            tasks = layer.tasks.reports(&layer.bound(), false, &but);
            requests.extend(self.open().filter_map(|(key, mut open)| {
                let exempt = exempt.iter().filter(|e| e.is_open_request(Some(key)));
                open.count = open.count.saturating_sub(exempt.count());
                (open.count > 0).then_some(open)
            }));
        }
        ShutdownReport {
            elapsed,
            requests,
            tasks,
            exempt: exempt.len(),
            cut_off: 0,
        }
    }

    /// As [`shutdown`](Self::shutdown), and then cuts off the response bodies and upgraded connections that
    /// have not ended within `grace`.
    ///
    /// For streams that watch no token. Their scopes end with
    /// [`Outcome::Shutdown`](crate::Outcome::Shutdown), so their tasks get their grace period.
    ///
    /// - A response body fails, so that the server aborts the response and the client can tell it from a
    ///   complete one. A gRPC body ends with the status `UNAVAILABLE`.
    /// - A future of [`ScopeHold::run`](crate::scope::ScopeHold::run) is dropped. Of other
    ///   [holds](crate::RequestScope::hold) only the scope ends.
    /// - Handlers that have not responded are not dropped. A [timeout] ends them.
    ///
    /// Returns what was still running before that, and the number of streams that were cut off.
    ///
    /// [timeout]: crate::middleware::MemoryLayerBuilder::timeout
    ///
    /// # Cancel safety
    ///
    /// As of [`shutdown`](Self::shutdown): nothing is cut off if it is dropped before.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime with its time driver enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, StreamBody};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::MemoryLayer;
    ///
    /// type Endless = futures_util::stream::Pending<Result<http_body::Frame<Bytes>, Infallible>>;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::new();
    /// let handle = layer.handle();
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     let body: StreamBody<Endless> = StreamBody::new(futures_util::stream::pending());
    ///     Ok::<_, Infallible>(Response::new(body))
    /// }));
    /// let body = service.oneshot(Request::new(())).await?.into_body();
    /// let reader = tokio::spawn(body.collect());
    /// tokio::task::yield_now().await;
    ///
    /// let report = handle.shutdown_and_cut_off(Duration::from_secs(10)).await;
    /// assert_eq!(report.cut_off, 1);
    /// let error = reader.await?.expect_err("cut off");
    /// assert_eq!(error.to_string(), "the server is shutting down");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown_and_cut_off(&self, grace: Duration) -> ShutdownReport {
        let mut report = self.shutdown(grace).await;
        if !report.is_clean() {
            report.cut_off = self.layer.shutdown.cut_off_streams();
        }
        report
    }

    /// Waits until the observers have seen all reports, until `end` at most.
    async fn observed(&self, end: Option<Instant>) {
        let observers = Arc::clone(&self.recorder.observers);
        if observers.is_idle() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            observers.flush();
            return;
        };
        let mut flushed = runtime.spawn_blocking(move || observers.flush());
        let mut timer = Timer::new();
        poll_fn(|cx| match Pin::new(&mut flushed).poll(cx) {
            Poll::Pending if !end.is_some_and(|end| timer.poll(end, cx)) => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
    }

    /// Returns whether a [shutdown](Self::shutdown) has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.layer.shutdown.has_begun()
    }

    /// Returns whether there are neither open requests nor tasks, except those that are exempt.
    fn is_idle(&self) -> bool {
        let shutdown = &self.layer.shutdown;
        let before = shutdown.exempted();
        let open_requests = |exempt: &[Exempt]| {
            let open = exempt.iter().filter(|exempt| exempt.is_open_request(None));
            open.count() as i64
        };
        // A negative count is that of a request that is counted on another route, too.
        let open = self.recorder.stats.open_requests().into_iter();
        let open: i64 = open.map(|(_, open)| open).sum();
        if open > open_requests(&before) {
            return false;
        }
        // Now, when only a task could start another one: to count those of requests takes a walk.
        let alive = self.layer.bound().len() + self.layer.tasks.detached.len();
        // Those that were exempt all the time, so they have been counted.
        let mut exempt = shutdown.exempted();
        exempt.retain(|exempt| before.iter().any(|before| before.is_same(exempt)));
        let waiting = exempt.iter().filter_map(Exempt::task).count();
        alive <= waiting && open <= open_requests(&exempt)
    }

    /// The open requests, by what they are counted under.
    fn open(&self) -> impl Iterator<Item = (RouteKey, OpenRequests)> {
        let open = self.recorder.stats.open_requests().into_iter();
        open.filter_map(|(key, open)| {
            let open = OpenRequests {
                method: key.method.as_str(),
                route: self.layer.routes.route(key.route).label.clone(),
                count: usize::try_from(open).ok().filter(|open| *open > 0)?,
            };
            Some((key, open))
        })
    }
}

/// Lists the request and the task that await a shutdown, which does not wait for them meanwhile.
struct Waiting<'a> {
    layer: &'a LayerState,
    places: Vec<usize>,
}

impl<'a> Waiting<'a> {
    fn new(layer: &'a Arc<LayerState>) -> Self {
        let requests = RequestScope::current_in(layer).into_iter();
        // Not a task of another layer.
        let task = TaskId::current().filter(|task| layer.tasks.contains(&layer.bound(), *task));
        let exempt = requests.map(Exempt::Request).chain(task.map(Exempt::Task));
        Self {
            layer,
            places: exempt.map(|exempt| layer.shutdown.exempt(exempt)).collect(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            drop(self.layer.shutdown.remove_exempt(*place));
        }
    }
}
