use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

use super::{current, handle::RequestScope};
use crate::{
    account::Writer,
    cancel::{Aborted, CancelReason, Grace},
    sync::{Arc, Ordering},
};

pub(super) fn spawn<F>(scope: &RequestScope, future: F) -> TaskHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let grace = scope
        .inner()
        .config
        .as_ref()
        .map_or(std::time::Duration::ZERO, |config| config.grace);
    let future = Grace::new(future, scope.own_token().clone(), grace);
    TaskHandle {
        join: tokio::spawn(ScopedTask {
            future: Some(future),
            ticket: Ticket::new(scope),
        }),
    }
}

/// Counts a task for as long as it exists.
struct Ticket {
    /// `None` only in the middle of `drop`, or while the task is polled.
    scope: Option<RequestScope>,
}

impl Ticket {
    fn new(scope: &RequestScope) -> Self {
        let inner = scope.inner();
        inner.lifecycle.task_started();
        inner.tasks_spawned.fetch_add(1, Ordering::Relaxed);
        if let Some(config) = &inner.config {
            config.gauges.tasks.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            scope: Some(scope.clone()),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(scope) = self.scope.take() else {
            return;
        };
        let inner = scope.inner();
        // Kept beyond the close, which may be the scope's last act.
        let gauges = inner
            .config
            .as_ref()
            .map(|config| Arc::clone(&config.gauges));
        inner.step(inner.lifecycle.task_ended(), CancelReason::Completed);
        drop(scope);
        if let Some(gauges) = gauges {
            gauges.tasks.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

pin_project! {
    /// A task's future: polled and dropped inside its scope.
    struct ScopedTask<F> {
        // Emptied as soon as it is ready, so that its drop is accounted too.
        #[pin]
        future: Option<Grace<F>>,
        // After the future, so that the scope closes when that is gone.
        ticket: Ticket,
    }

    impl<F> PinnedDrop for ScopedTask<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = current::enter(&mut this.ticket.scope, Writer::Shared);
            this.future.set(None);
        }
    }
}

impl<F: Future> Future for ScopedTask<F> {
    type Output = Result<F::Output, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let entered = current::enter(&mut this.ticket.scope, Writer::Shared);
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(Aborted));
        };
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        drop(entered);
        if let (Poll::Ready(Err(Aborted)), Some(scope)) = (&polled, &this.ticket.scope) {
            scope.inner().tasks_aborted.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

/// A task of a request; awaiting it gives what the task returned.
///
/// Dropping it does not end the task: the request does.
///
/// # Cancel safety
///
/// Cancel safe: awaiting it by reference may be given up and taken up again.
#[derive(Debug)]
pub struct TaskHandle<T> {
    join: JoinHandle<Result<T, Aborted>>,
}

impl<T> TaskHandle<T> {
    /// Drops the task at its next await.
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
