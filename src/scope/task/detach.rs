use std::{
    panic::Location,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{handle::TaskHandle, registry::DetachedTicket};
use crate::{cancel::Aborted, scope::RequestScope};

impl RequestScope {
    /// Starts a task that is meant to outlive the request: an entry in an audit log, a cache that
    /// is filled.
    ///
    /// It has an account of its own and keeps nothing of the request, unless the future itself
    /// does. Nothing ends it: neither the request, nor its deadline, nor a shutdown, which only
    /// waits for it. It is counted under `name` (see
    /// [`MemoryHandle::detached`](crate::MemoryHandle::detached)); 256 names are told apart, the
    /// rest share `{other}`. [`current`](Self::current) does not find the scope in it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as [`tokio::spawn`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> &'static str {
    ///     scope.detach("audit", async {
    ///         // written whether or not the client waits for its response
    ///     });
    ///     "noted"
    /// }
    /// ```
    #[track_caller]
    pub fn detach<F>(&self, name: &'static str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        TaskHandle::new(tokio::spawn(DetachedTask {
            future: Some(future),
            ticket: DetachedTicket::new(self.inner(), name, Location::caller()),
        }))
    }
}

pin_project! {
    /// A detached task's future: polled and dropped inside its own account.
    struct DetachedTask<F> {
        #[pin]
        future: Option<F>,
        // After the future. `None` only without a layer.
        ticket: Option<DetachedTicket>,
    }

    impl<F> PinnedDrop for DetachedTask<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                let _task = this.ticket.as_ref().map(|ticket| ticket.record.enter());
                this.future.set(None);
            }
        }
    }
}

impl<F: Future> Future for DetachedTask<F> {
    type Output = Result<F::Output, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _task = this.ticket.as_ref().map(|ticket| ticket.record.enter());
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(Aborted));
        };
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled.map(Ok)
    }
}
