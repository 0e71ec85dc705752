use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;

use super::{body::CallBody, error::CallError};
use crate::{
    scope::{RequestScope, UntilCancelled},
    wire::Protocol,
};

pin_project! {
    /// The future of [`PropagateDeadline`](super::PropagateDeadline).
    ///
    /// # Fairness
    ///
    /// The call is polled before the cancellation of the incoming request, so a response that has
    /// arrived is returned even if the request has been cancelled meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the call.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct PropagateDeadlineFuture<F> {
        // `None` once it has completed.
        #[pin]
        inner: Option<F>,
        cancelled: Option<UntilCancelled<RequestScope>>,
        refused: Option<CallError>,
        protocol: Protocol,
    }
}

impl<F> PropagateDeadlineFuture<F> {
    pub(super) fn calling(inner: F, scope: Option<RequestScope>, protocol: Protocol) -> Self {
        Self {
            inner: Some(inner),
            cancelled: scope.map(UntilCancelled::new),
            refused: None,
            protocol,
        }
    }

    pub(super) const fn refused(error: CallError, protocol: Protocol) -> Self {
        Self {
            inner: None,
            cancelled: None,
            refused: Some(error),
            protocol,
        }
    }
}

impl<F, R, E> Future for PropagateDeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<Response<CallBody<R>>, CallError>;

    /// # Panics
    ///
    /// Panics if polled again after it returned `Ready`.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(error) = this.refused.take() {
            return Poll::Ready(error.into_response(*this.protocol));
        }
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            panic!("`PropagateDeadlineFuture` polled after completion");
        };
        if let Poll::Ready(result) = inner.poll(cx) {
            this.inner.set(None);
            return Poll::Ready(match result {
                Ok(response) => Ok(response.map(CallBody::received)),
                Err(error) => Err(CallError::service(error)),
            });
        }
        let Some(cancelled) = this.cancelled else {
            return Poll::Pending;
        };
        let reason = ready!(Pin::new(cancelled).poll(cx));
        this.inner.set(None);
        Poll::Ready(CallError::cancelled(reason).into_response(*this.protocol))
    }
}
