use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::housekeeping::Timer;

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
        // The end of the grace period; `None` before it begins, or if it has no end.
        end: Option<Instant>,
        is_cancelled: bool,
        timer: Timer,
        grace: Duration,
    }
}

impl<F> Grace<F> {
    pub(crate) fn new(future: F, token: CancellationToken, grace: Duration) -> Self {
        Self {
            future,
            cancelled: token.cancelled_owned(),
            end: None,
            is_cancelled: false,
            timer: Timer::new(),
            grace,
        }
    }
}

impl<F: Future> Future for Grace<F> {
    type Output = Result<F::Output, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if !*this.is_cancelled {
            if this.cancelled.poll(cx).is_pending() {
                return Poll::Pending;
            }
            *this.is_cancelled = true;
            *this.end = Instant::now().checked_add(*this.grace);
        }
        match *this.end {
            Some(end) if this.timer.poll(end, cx) => Poll::Ready(Err(Aborted)),
            _ => Poll::Pending,
        }
    }
}
