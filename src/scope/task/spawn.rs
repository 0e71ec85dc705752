use std::{
    panic::Location,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;

use super::{handle::TaskHandle, registry::Ticket, report::TaskKind};
use crate::{
    account::Writer,
    cancel::{Aborted, Grace},
    scope::{RequestScope, current},
};

impl RequestScope {
    /// Starts a task that belongs to the request.
    ///
    /// What it allocates is accounted to the request. When the request ends its token is
    /// cancelled, and the task has the layer's grace (5 s unless set) to end by itself; then it is
    /// dropped at its next await, and [reported](crate::ScopeReport::overruns) with the place of
    /// this call. The scope closes after its last task, or when it had to give up on one that
    /// blocks its thread.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as [`tokio::spawn`]. The runtime needs its time driver as soon
    /// as the request ends before the task.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> &'static str {
    ///     let token = scope.child_token();
    ///     scope.spawn(async move {
    ///         token.cancelled().await; // the request is over: tidy up and end
    ///     });
    ///     "started"
    /// }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let config = self.inner().config();
        let grace = config.map_or(Duration::ZERO, |config| config.grace);
        // The token first, so that it is there when the ticket asks whether it is cancelled.
        let future = Grace::new(future, self.own_token().clone(), grace);
        TaskHandle::new(tokio::spawn(ScopedTask {
            future: Some(future),
            ticket: Ticket::new(self, TaskKind::Async, Location::caller()),
        }))
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
            if this.future.is_some() {
                let (scope, record) = this.ticket.parts();
                let _scope = current::enter(scope, Writer::Shared);
                let _task = record.map(|record| record.enter());
                this.future.set(None);
            }
        }
    }
}

impl<F: Future> Future for ScopedTask<F> {
    type Output = Result<F::Output, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (scope, record) = this.ticket.parts();
        let polled = {
            let _scope = current::enter(scope, Writer::Shared);
            let _task = record.map(|record| record.enter());
            let Some(future) = this.future.as_mut().as_pin_mut() else {
                return Poll::Ready(Err(Aborted));
            };
            let polled = future.poll(cx);
            if polled.is_ready() {
                this.future.set(None);
            }
            polled
        };
        if let (Poll::Ready(Err(Aborted)), Some(record)) = (&polled, record) {
            record.overran(false);
        }
        polled
    }
}
