use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::{AbortHandle, JoinError, JoinHandle};

use crate::cancel::Aborted;

/// A task of a request. Awaiting it returns the output of the task.
///
/// Dropping it does not end the task; the end of the request does.
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
/// let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("inside of the layer");
///     assert_eq!(scope.spawn(async { 40 + 2 }).await.expect("it has returned"), 42);
///
///     let endless = scope.spawn(std::future::pending::<()>());
///     endless.abort();
///     let error = endless.await.unwrap_err();
///     assert!(error.is_aborted());
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # let response = runtime.block_on(service.oneshot(Request::new(()))).expect("infallible");
/// # drop(response);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Cancel safety
///
/// Cancel safe: it can be awaited by reference, dropped from a `select!`, and awaited again.
#[derive(Debug)]
pub struct TaskHandle<T> {
    join: JoinHandle<Result<T, Aborted>>,
}

impl<T> TaskHandle<T> {
    pub(crate) const fn new(join: JoinHandle<Result<T, Aborted>>) -> Self {
        Self { join }
    }

    /// Drops the task at its next `.await`.
    ///
    /// A blocking closure that has begun keeps running.
    pub fn abort(&self) {
        self.join.abort();
    }

    /// Returns a handle that can only abort the task.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.join.abort_handle()
    }

    /// Returns whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.join)
            .poll(cx)
            .map(|joined| match joined {
                Ok(Ok(output)) => Ok(output),
                Ok(Err(aborted)) => Err(aborted.into()),
                Err(source) => Err(TaskError {
                    source: Some(source),
                }),
            })
    }
}

/// Why a task of a request returned nothing: it panicked, was aborted, or exceeded its grace period.
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
/// let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     let error = scope.spawn(async { panic!("no such record") }).await.unwrap_err();
///     assert!(error.is_panic() && !error.is_aborted());
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// service.oneshot(Request::new(())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TaskError {
    /// `None` if it still ran when its grace period was over.
    source: Option<JoinError>,
}

impl From<Aborted> for TaskError {
    fn from(Aborted: Aborted) -> Self {
        Self { source: None }
    }
}

impl TaskError {
    /// Returns whether the task was aborted, or its runtime shut down.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.source.as_ref().is_some_and(JoinError::is_cancelled)
    }

    /// Returns whether the request had ended and the task still ran after its grace period.
    #[must_use]
    pub const fn is_grace_exceeded(&self) -> bool {
        self.source.is_none()
    }

    /// Returns whether the task panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.source.as_ref().is_some_and(JoinError::is_panic)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.source {
            None => "the request had ended and the grace period of the task was over",
            Some(source) if source.is_panic() => "the task panicked",
            Some(_) => "the task was aborted",
        })
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
