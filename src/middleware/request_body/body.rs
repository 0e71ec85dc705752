use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::scope::RequestScope;

pin_project! {
    /// A request body that records whether the handler waits for it. It passes everything on unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::middleware::{RequestBody, RequestBodyLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let service = RequestBodyLayer::new().layer(service_fn(
    ///     |request: Request<RequestBody<Full<Bytes>>>| async {
    ///         let body: Full<Bytes> = request.into_body().into_inner();
    ///         Ok::<_, Infallible>(Response::new(body))
    ///     },
    /// ));
    /// let response = service.oneshot(Request::new(Full::from("hello"))).await?;
    /// assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(5));
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug)]
    #[must_use = "a body does nothing unless polled"]
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        waiting: Waiting,
    }
}

/// Tells the scope whether the body's last poll was pending.
#[derive(Debug)]
struct Waiting {
    scope: Option<RequestScope>,
    waits: bool,
}

impl Waiting {
    fn set(&mut self, waits: bool) {
        if self.waits == waits {
            return;
        }
        self.waits = waits;
        if let Some(scope) = &self.scope {
            scope.limits().set_wants_body(waits);
        }
    }
}

/// A handler that drops the body does not wait for it.
impl Drop for Waiting {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl<B> RequestBody<B> {
    pub(super) const fn new(inner: B, scope: Option<RequestScope>) -> Self {
        Self {
            inner,
            waiting: Waiting {
                scope,
                waits: false,
            },
        }
    }

    /// Returns the inner body, which is no longer watched.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        this.waiting.set(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
