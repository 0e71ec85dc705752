use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    body_length::BodyLength,
    call::BoxedCall,
    open_body::{BodyEnd, BoxError, LastFrame, OpenBody},
};
use crate::{deadline::Watched, housekeeping::Housekeeping, scope::OpenScope};

pin_project! {
    /// The response body of [`MemoryService`](crate::MemoryService).
    ///
    /// It forwards the inner body's frames, trailers, size hint and end of stream, so a server frames the
    /// response as it would without the layer. It accounts each poll to the request and ends the scope
    /// when the body is over.
    ///
    /// # When a body is complete
    ///
    /// Servers drop many bodies without polling them to their end. So a dropped body counts as complete
    /// if its end was seen, it reports to be at its end, as many bytes as it announced were yielded, or
    /// the response has no body by the rules of HTTP (`HEAD`, 1xx, 204, 304). "Complete" means handed to
    /// the server; only the server knows whether the bytes reached the client.
    ///
    /// # Limits
    ///
    /// A body that exceeds `body_timeout` or `body_idle_timeout` is dropped and ends with a
    /// [`BodyTimeoutError`](super::BodyTimeoutError), so that the client can tell it from a complete one.
    /// A gRPC body ends with trailers instead, which in gRPC-Web are part of the body. The error is boxed,
    /// since the inner body's own errors are passed on unchanged.
    ///
    /// HTTP/1.0 has no framing for a body of unknown length: its client sees the connection close, and
    /// takes the part that it got for the whole.
    ///
    /// A body that a shutdown [cuts off](crate::MemoryHandle::shutdown_and_cut_off) ends in the same way, with
    /// an error that says so or, in gRPC, the status `UNAVAILABLE`.
    ///
    /// A server that waits for a client which reads nothing does not poll the body. Then the
    /// [housekeeping](crate::housekeeping) ends the response, within 0.1 s after its limit: it drops the inner
    /// body, on its own thread, which has a stack of 256 KiB, and closes the scope. The server gets the error when it polls again. Frames
    /// that it has taken before stay with it. So a body has to be `Send`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, Outcome};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::new();
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    /// }));
    /// let unread = service.clone().oneshot(Request::new(())).await?;
    /// drop(unread);
    /// let response = service.oneshot(Request::new(())).await?;
    /// let read = response.into_body().collect().await.expect("nothing fails here").to_bytes();
    /// assert_eq!(read, "hello");
    ///
    /// let outcomes = layer.handle().snapshot().routes[0].outcomes;
    /// assert_eq!(outcomes.get(Outcome::Abandoned), 1);
    /// assert_eq!(outcomes.get(Outcome::Completed), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "a body does nothing unless polled"]
    pub struct ResponseBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<B> {
        // The inner service's body, which ends the scope.
        Open { #[pin] body: OpenBody<B> },
        // The same, with a limit at which it ends although it is not polled.
        Limited { body: Watched<Pin<Box<OpenBody<B>>>, LastFrame> },
        // The inner service's body, of a scope that an outer layer ends.
        Nested {
            #[pin]
            body: B,
            // The call that the body belongs to, if it limits bodies.
            call: Option<BoxedCall>,
        },
        // The layer's own response.
        Answer { answer: Answer },
        Done,
    }
}

/// A body made by the middleware. Its drop ends the scope.
struct Answer {
    bytes: Bytes,
    open: Option<OpenScope>,
    length: BodyLength,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.finish(self.length.reason_of_drop());
        }
    }
}

impl<B> ResponseBody<B> {
    /// The inner service's body, which ends the scope.
    #[inline]
    pub(super) fn open(body: B, open: OpenScope, length: BodyLength, end: BodyEnd) -> Self
    where
        B: Send + 'static,
    {
        let scope = open.scope();
        // A body that may have to be taken from a server that does not poll it, to free memory: it is a stream, or
        // the request holds much. Asked for before the body is made, so that it is made where it stays.
        let may_be_taken = !length.is_none() && scope.may_be_victim(length.is_unknown());
        if may_be_taken || !length.is_none() && scope.limits().has_body_limits() {
            return Self::limited(OpenBody::new(body, open, length, end), may_be_taken);
        }
        Self {
            state: State::Open {
                body: OpenBody::new(body, open, length, end),
            },
        }
    }

    #[inline(never)]
    fn limited(mut body: OpenBody<B>, may_be_taken: bool) -> Self
    where
        B: Send + 'static,
    {
        let state = if body.is_limited() || may_be_taken {
            let body = Watched::new(Box::pin(body), Housekeeping::Process);
            if may_be_taken {
                body.look(|inner| {
                    if let Some(open) = inner.open() {
                        open.scope().set_body_taker(Some(body.looker()));
                    }
                });
            }
            State::Limited { body }
        } else {
            State::Open { body }
        };
        Self { state }
    }

    /// The inner service's body, of a scope that an outer layer ends.
    pub(super) const fn nested(body: B, call: Option<BoxedCall>) -> Self {
        Self {
            state: State::Nested { body, call },
        }
    }

    /// A body made by the middleware.
    pub(super) const fn answer(bytes: Bytes, open: Option<OpenScope>, length: BodyLength) -> Self {
        let answer = Answer {
            bytes,
            open,
            length,
        };
        Self {
            state: State::Answer { answer },
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.project().state;
        match state.as_mut().project() {
            StateProjection::Open { body } => body.poll_frame(cx),
            _ => State::poll_other(state, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open { body } => body.is_end_stream(),
            // One that was ended still has its last frame.
            State::Limited { body } => body.look(|body| body.is_end_stream()).unwrap_or(false),
            State::Nested { body, .. } => body.is_end_stream(),
            State::Answer { answer } => answer.bytes.is_empty(),
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Open { body } => body.size_hint(),
            State::Limited { body } => body.look(|body| body.size_hint()).unwrap_or_default(),
            State::Nested { body, .. } => body.size_hint(),
            State::Answer { answer } => SizeHint::with_exact(answer.bytes.len() as u64),
            State::Done => SizeHint::with_exact(0),
        }
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(never)]
    fn poll_other(
        mut state: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (polled, over) = match state.as_mut().project() {
            StateProjection::Open { body } => return body.poll_frame(cx),
            StateProjection::Limited { body } => {
                let polled = body.with(|body| {
                    let polled = body.as_mut().poll_frame(cx);
                    (polled, body.open().is_none())
                });
                // Ended by the housekeeping: its last frame.
                polled.unwrap_or_else(|last| (Poll::Ready(last), true))
            }
            StateProjection::Nested { body, .. } => return body.poll_frame(cx).map_err(Into::into),
            StateProjection::Answer { answer } => {
                let bytes = std::mem::take(&mut answer.bytes);
                answer.length = BodyLength::NONE;
                let frame = Some(bytes).filter(|bytes| !bytes.is_empty());
                (Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes)))), true)
            }
            StateProjection::Done => return Poll::Ready(None),
        };
        if over {
            state.set(Self::Done);
        }
        polled
    }
}

/// The default inner body.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            state: State::Nested {
                body: B::default(),
                call: None,
            },
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |body: &OpenBody<B>| {
            let scope = body.open().map(|open| open.scope().clone());
            (scope, Some(body.length()))
        };
        let (scope, length) = match &self.state {
            State::Open { body } => of(body),
            State::Limited { body } => body.look(|body| of(body)).unwrap_or_default(),
            State::Answer { answer } => {
                let scope = answer.open.as_ref().map(|open| open.scope().clone());
                (scope, Some(answer.length))
            }
            State::Nested { .. } | State::Done => (None, None),
        };
        f.debug_struct("ResponseBody")
            .field("scope", &scope)
            .field("length", &length)
            .finish_non_exhaustive()
    }
}
