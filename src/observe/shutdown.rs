use std::{fmt, pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::handle::MemoryHandle;
use crate::scope::{RouteLabel, TaskReport};

/// What did not stop in a [shutdown](MemoryHandle::shutdown). Its `Display` is a line for each.
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
/// let layer = MemoryLayer::new();
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let unsent = service.oneshot(Request::new(())).await?;
///
/// let report = layer.handle().shutdown(Duration::ZERO).await;
/// assert!(!report.is_clean() && report.tasks.is_empty());
/// assert!(report.to_string().ends_with("{unmatched} open: 1"));
///
/// drop(unsent);
/// assert!(layer.handle().shutdown(Duration::ZERO).await.is_clean());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How long it was waited.
    pub elapsed: Duration,
    /// Requests that are still open, by route.
    pub requests: Vec<OpenRequests>,
    /// Tasks that still exist, detached ones included, oldest first.
    pub tasks: Vec<TaskReport>,
}

/// Requests of one route that are open.
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
/// let open = &report.requests[0];
/// assert_eq!((open.route.as_str(), open.count), ("reports", 1));
/// # drop(unsent);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenRequests {
    /// The route.
    pub route: RouteLabel,
    /// How many there are; never zero.
    pub count: usize,
}

impl ShutdownReport {
    /// Whether everything stopped.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.requests.is_empty() && self.tasks.is_empty()
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "all stopped within {:.1?}", self.elapsed);
        }
        write!(f, "after {:.1?} there were still", self.elapsed)?;
        for open in &self.requests {
            write!(f, "\n  {} open: {}", open.route, open.count)?;
        }
        for task in &self.tasks {
            write!(f, "\n  {task}")?;
        }
        Ok(())
    }
}

impl MemoryHandle {
    /// Shuts the layer's requests down: tells all that are open, and waits until they are over, but
    /// not longer than `grace`.
    ///
    /// Tokens of open requests are cancelled with
    /// [`Outcome::Shutdown`](crate::Outcome::Shutdown): their tasks have the
    /// layer's own grace, and holds and streamed bodies that watch the token can end. Handlers go
    /// on; a response that is still given is given. Either way such a request ends with
    /// [`Outcome::Shutdown`](crate::Outcome::Shutdown). Requests that come from now on are refused
    /// with `503` without asking the handler, so a client may safely send them elsewhere.
    ///
    /// Returns what was still there at the end: open requests, and tasks, among them detached ones,
    /// which are waited for and not told. Nothing of it is ended by force; that is for who ends the
    /// process.
    ///
    /// There is no way back. A second call waits for what is left. The layer is not the server:
    /// that has to stop accepting connections by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up waiting; the shutdown has begun with its first poll.
    ///
    /// # Panics
    ///
    /// Needs a tokio runtime with its time driver, and panics without one.
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
    /// let server = tokio::spawn(server.into_future());
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
        let over = async {
            loop {
                // Before looking, so that no change after the look is missed.
                let mut change = pin!(layer.shutdown.next_change());
                change.as_mut().enable();
                if self.is_idle() {
                    return;
                }
                change.await;
            }
        };
        let stopped = match start.checked_add(grace) {
            Some(end) => timeout_at(end, over).await.is_ok(),
            None => {
                over.await;
                true
            }
        };
        let elapsed = start.elapsed();
        // Not looked at anew if all had stopped: a request that is being refused is there, too.
        let left = (!stopped).then(|| {
            let tasks = self.layer.tasks.reports(false);
            (self.open().collect(), tasks)
        });
        let (requests, tasks) = left.unwrap_or_default();
        ShutdownReport {
            elapsed,
            requests,
            tasks,
        }
    }

    /// Whether a [shutdown](Self::shutdown) has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.layer.shutdown.has_begun()
    }

    /// Whether there are neither open requests nor tasks.
    fn is_idle(&self) -> bool {
        let tasks = &self.layer.tasks;
        // In both orders: one that gets another route meanwhile is found on the new one or on the
        // former.
        tasks.bound() == 0
            && tasks.detached() == 0
            && self.open().next().is_none()
            && self.open().next_back().is_none()
    }

    fn open(&self) -> impl DoubleEndedIterator<Item = OpenRequests> {
        self.recorder
            .stats
            .totals()
            .filter_map(|(number, opened, totals)| {
                let open = opened.wrapping_sub(totals.outcomes.total());
                Some(OpenRequests {
                    route: self.layer.routes.route(number).label.clone(),
                    // One that is relabelled at this moment may be seen on both routes.
                    count: usize::try_from(open as i64).ok().filter(|open| *open > 0)?,
                })
            })
    }
}
