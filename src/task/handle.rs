use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::{AbortHandle, JoinError, JoinHandle};

use crate::cancel::Aborted;

/// A task of a request; awaiting it gives what the task returned.
///
/// Dropping it does not end the task: the request does.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope, scope::TaskErrorKind};
///
/// let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("inside of the layer");
///     assert_eq!(scope.spawn(async { 40 + 2 }).await.expect("it has returned"), 42);
///
///     let endless = scope.spawn(std::future::pending::<()>());
///     endless.abort();
///     let error = endless.await.unwrap_err();
///     assert_eq!(error.kind(), TaskErrorKind::Aborted);
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
/// Cancel safe: awaiting it by reference may be given up and taken up again.
#[derive(Debug)]
pub struct TaskHandle<T> {
    join: JoinHandle<Result<T, Aborted>>,
}

impl<T> TaskHandle<T> {
    pub(crate) const fn new(join: JoinHandle<Result<T, Aborted>>) -> Self {
        Self { join }
    }

    /// Drops the task at its next await.
    ///
    /// A blocking closure that has begun goes on.
    pub fn abort(&self) {
        self.join.abort();
    }

    /// A handle that can only abort the task.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.join.abort_handle()
    }

    /// Whether the task has ended.
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
                Ok(Err(Aborted)) => Err(TaskError { source: None }),
                Err(source) => Err(TaskError {
                    source: Some(source),
                }),
            })
    }
}

/// Why a task of a request returned nothing.
#[derive(Debug)]
pub struct TaskError {
    /// `None`: it still ran when its grace was over.
    source: Option<JoinError>,
}

/// What kind of error a [`TaskError`] is.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope, scope::TaskErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     let error = scope.spawn(async { panic!("no such record") }).await.unwrap_err();
///     assert_eq!(error.kind(), TaskErrorKind::Panicked);
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// service.oneshot(Request::new(())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskErrorKind {
    /// It was aborted, or its runtime went down.
    Aborted,
    /// The request had ended, and the task still ran when its grace was over.
    GraceExceeded,
    /// It panicked.
    Panicked,
}

impl TaskError {
    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> TaskErrorKind {
        match &self.source {
            None => TaskErrorKind::GraceExceeded,
            Some(source) if source.is_panic() => TaskErrorKind::Panicked,
            Some(_) => TaskErrorKind::Aborted,
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind() {
            TaskErrorKind::Aborted => "the task was aborted",
            TaskErrorKind::GraceExceeded => "the request had ended and the task's grace was over",
            TaskErrorKind::Panicked => "the task panicked",
        })
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
