use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    cancel::{CancelReason, Outcome},
    scope::RequestScope,
};

type BoxError = Box<dyn Error + Send + Sync>;

pin_project! {
    /// A request body that records whether the handler waits for it, and whether it breaks off.
    ///
    /// It passes frames and trailers on unchanged, and the inner body's errors in a box.
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
        // Bytes that the body announced and has not yielded; `None` before the first poll.
        missing: Option<u64>,
        // Bytes of the last frame.
        last: u64,
        watcher: Watcher,
    }
}

/// Tells the scope what happens to the body.
#[derive(Debug)]
struct Watcher {
    scope: Option<RequestScope>,
    /// Whether the last poll was pending.
    waits: bool,
    /// Whether the request may not read more.
    stopped: bool,
}

impl Watcher {
    fn set(&mut self, waits: bool) {
        if self.waits == waits {
            return;
        }
        self.waits = waits;
        if let Some(scope) = &self.scope {
            scope.limits().set_wants_body(waits);
        }
    }

    /// Whether another frame like the last one of `bytes` would exceed what the request may hold. Then the
    /// request ends: the layer does not poll the handler again.
    #[inline]
    fn may_not_read(&mut self, bytes: u64) -> bool {
        let scope = self.scope.as_ref();
        let left = scope.and_then(RequestScope::request_limit_left);
        if left.is_none_or(|left| left >= bytes) {
            return false;
        }
        self.stop_reading(bytes);
        true
    }

    #[cold]
    fn stop_reading(&mut self, bytes: u64) {
        self.set(true);
        self.stopped = true;
        if let Some(scope) = &self.scope {
            scope.stop_reading(bytes);
        }
    }

    /// The client's connection has ended before the body.
    #[cold]
    fn client_gone(&self) {
        if let Some(scope) = &self.scope {
            scope.cancel_for(CancelReason::new(Outcome::ClientGone));
        }
    }

    #[cold]
    fn failed(&self, error: &BoxError) {
        match Failure::of(error) {
            Failure::Connection => self.client_gone(),
            Failure::Unknown => {
                if let Some(scope) = &self.scope {
                    scope.body_failed();
                }
            }
            Failure::Content => {}
        }
    }
}

/// What an error of a request's body comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// A connection that has ended.
    Connection,
    /// What the client has sent.
    Content,
    /// The error does not say: a reset stream of HTTP/2, or a limit of an outer layer.
    Unknown,
}

impl Failure {
    fn of(error: &BoxError) -> Self {
        let mut found = Self::Unknown;
        let mut next: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(error) = next {
            next = match error.downcast_ref::<io::Error>() {
                Some(error) if is_end_of_connection(error.kind()) => return Self::Connection,
                Some(error) => {
                    if is_content(error.kind()) {
                        found = Self::Content;
                    }
                    // An I/O error's source is that of the error it wraps.
                    error.get_ref().map(|wrapped| wrapped as _)
                }
                None => error.source(),
            };
        }
        found
    }
}

/// Whether servers report malformed framing by an I/O error of this kind.
const fn is_content(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

const fn is_end_of_connection(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof
    )
}

/// A handler that drops the body does not wait for it, unless it was dropped since it may not read more.
impl Drop for Watcher {
    fn drop(&mut self) {
        if !self.stopped {
            self.set(false);
        }
    }
}

impl<B> RequestBody<B> {
    pub(super) const fn new(inner: B, scope: Option<RequestScope>) -> Self {
        Self {
            inner,
            missing: None,
            last: 0,
            watcher: Watcher {
                scope,
                waits: false,
                stopped: false,
            },
        }
    }

    /// Returns the inner body, which is no longer watched.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        let missing = this
            .missing
            .get_or_insert_with(|| this.inner.size_hint().lower());
        if this.watcher.may_not_read(*this.last) {
            return Poll::Pending;
        }
        let polled = this.inner.poll_frame(cx).map_err(Into::into);
        this.watcher.set(polled.is_pending());
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map_or(0, Buf::remaining);
                *missing = missing.saturating_sub(data as u64);
                *this.last = data as u64;
            }
            Poll::Ready(Some(Err(error))) => this.watcher.failed(error),
            Poll::Ready(None) if *missing > 0 => this.watcher.client_gone(),
            Poll::Ready(None) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
