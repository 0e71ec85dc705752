use std::{
    fmt,
    panic::Location,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

use super::{handle::RequestScope, spawn::ScopedTask};
use crate::task::{TaskError, TaskKind};

impl RequestScope {
    /// Makes a future part of the request, for a `JoinSet`, a `LocalSet` or another spawner.
    ///
    /// What it allocates is accounted to the request, and [`current`](Self::current) returns the scope in
    /// it. The scope waits for it and ends it as [`spawn`](Self::spawn) says, from this call on, even if
    /// the future is polled later. One that is not polled at the end of its grace period cannot be dropped:
    /// it is given up and [reported](crate::ScopeReport::overruns) with the location of this call.
    ///
    /// Inside the handler's own future there is no need for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::task::JoinSet;
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> usize {
    ///     let mut set = JoinSet::new();
    ///     for n in 0..3 {
    ///         set.spawn(scope.track(async move { n }));
    ///     }
    ///     set.join_all().await.into_iter().flatten().sum()
    /// }
    /// # use std::convert::Infallible;
    /// # use http::{Request, Response};
    /// # use http_body_util::Empty;
    /// # use tower::{Layer, ServiceExt, service_fn};
    /// # let layer = tower_memory::MemoryLayer::new();
    /// # let service = layer.layer(service_fn(|request: Request<()>| async {
    /// #     let scope = request.into_parts().0.extensions.remove::<RequestScope>().expect("in the layer");
    /// #     assert_eq!(handler(scope).await, 3);
    /// #     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// # }));
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// # runtime.block_on(service.oneshot(Request::new(()))).unwrap();
    /// ```
    #[track_caller]
    pub fn track<F: Future>(&self, future: F) -> TrackedFuture<F> {
        TrackedFuture {
            task: Some(ScopedTask::new(
                self,
                future,
                TaskKind::Tracked,
                Location::caller(),
            )),
        }
    }
}

pin_project! {
    /// A future that belongs to a request; made by [`RequestScope::track`].
    ///
    /// Its output is an error if the future was dropped at the end of its grace period.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as the inner future. Dropping it drops the inner future, inside the scope.
    #[must_use = "futures do nothing unless polled"]
    pub struct TrackedFuture<F> {
        // `None` once it has completed, since a task keeps its scope open.
        #[pin]
        task: Option<ScopedTask<F>>,
    }
}

impl<F: Future> Future for TrackedFuture<F> {
    type Output = Result<F::Output, TaskError>;

    /// # Panics
    ///
    /// Panics if polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut task = self.project().task;
        let Some(running) = task.as_mut().as_pin_mut() else {
            panic!("`TrackedFuture` polled after completion");
        };
        let output = ready!(running.poll(cx));
        task.set(None);
        Poll::Ready(output.map_err(TaskError::from))
    }
}

impl<F> fmt::Debug for TrackedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackedFuture").finish_non_exhaustive()
    }
}
