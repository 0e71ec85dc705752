use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The response body of [`PropagateDeadline`](super::PropagateDeadline): the inner service's, or none if
    /// a gRPC call was not sent or was dropped.
    #[derive(Debug)]
    #[must_use = "a body does nothing unless polled"]
    pub struct CallBody<B> {
        #[pin]
        inner: Option<B>,
    }
}

impl<B> CallBody<B> {
    pub(super) const fn received(body: B) -> Self {
        Self { inner: Some(body) }
    }

    pub(super) const fn none() -> Self {
        Self { inner: None }
    }
}

/// No body.
impl<B> Default for CallBody<B> {
    fn default() -> Self {
        Self::none()
    }
}

impl<B: Body> Body for CallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().inner.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
