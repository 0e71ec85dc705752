use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The future was dropped because it exceeded its grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted;

pin_project! {
    /// Runs a future until it completes, or until `grace` after the token was cancelled.
    ///
    /// The future is polled first, so one that completes at the last moment has completed.
    pub(crate) struct Grace<F> {
        #[pin]
        future: F,
        #[pin]
        cancelled: WaitForCancellationFutureOwned,
        #[pin]
        left: Option<Sleep>,
        grace: Duration,
    }
}

impl<F> Grace<F> {
    pub(crate) fn new(future: F, token: CancellationToken, grace: Duration) -> Self {
        Self {
            future,
            cancelled: token.cancelled_owned(),
            left: None,
            grace,
        }
    }
}

impl<F: Future> Future for Grace<F> {
    type Output = Result<F::Output, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if this.left.is_none() {
            if this.cancelled.poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.left.set(Some(sleep(*this.grace)));
        }
        let Some(left) = this.left.as_pin_mut() else {
            return Poll::Pending;
        };
        // Without tokio's cooperative budget, which the task may have used up.
        Pin::new(&mut tokio::task::unconstrained(left))
            .poll(cx)
            .map(|()| Err(Aborted))
    }
}
