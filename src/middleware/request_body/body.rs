use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::scope::RequestScope;

pin_project! {
    /// A request body that notes whether somebody waits for it. It passes everything on as it is.
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
    #[must_use = "a body does nothing unless polled"]
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        waiting: Waiting,
    }
}

/// Whether the body's last poll was pending.
struct Waiting {
    scope: Option<RequestScope>,
    noted: bool,
}

impl Waiting {
    fn note(&mut self, waits: bool) {
        if self.noted == waits {
            return;
        }
        self.noted = waits;
        if let Some(scope) = &self.scope {
            scope.set_wants_body(waits);
        }
    }
}

/// Who drops the body wants no more of it.
impl Drop for Waiting {
    fn drop(&mut self) {
        self.note(false);
    }
}

impl<B> RequestBody<B> {
    pub(super) const fn new(inner: B, scope: Option<RequestScope>) -> Self {
        Self {
            inner,
            waiting: Waiting {
                scope,
                noted: false,
            },
        }
    }

    /// The body inside.
    #[must_use]
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    /// The body inside; from here on nobody notes whether it arrives.
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
        this.waiting.note(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("waits", &self.waiting.noted)
            .finish_non_exhaustive()
    }
}
