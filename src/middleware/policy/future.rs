use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

pin_project! {
    /// The future of [`PolicyService`](super::PolicyService): the inner one.
    ///
    /// If the policy's time had passed before the request arrived, the inner service was not called.
    /// Then this is pending, and the `MemoryLayer` that opened the scope gives its answer.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct PolicyFuture<F> {
        #[pin]
        inner: Option<F>,
    }
}

impl<F> PolicyFuture<F> {
    pub(super) const fn new(inner: F) -> Self {
        Self { inner: Some(inner) }
    }

    pub(super) const fn refused() -> Self {
        Self { inner: None }
    }
}

impl<F: Future> Future for PolicyFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().inner.as_pin_mut() {
            Some(inner) => inner.poll(cx),
            None => Poll::Pending,
        }
    }
}
