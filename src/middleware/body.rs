use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{body_error::BodyTimeoutError, call::Call, place::Place};
use crate::{
    account::Inside,
    cancel::{CancelReason, Outcome},
    deadline::DeadlineTimer,
    scope::{OpenScope, StreamPlace},
    wire::{self, Protocol},
};

type BoxError = Box<dyn Error + Send + Sync>;

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
    /// The limits are checked when the server polls the body. They do not end a response while the
    /// server waits for a client that reads nothing.
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

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            this.project().state.finish(None);
        }
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<B> {
        // The inner service's body, which ends the scope.
        Open {
            // The scope is taken when the body is over.
            #[pin]
            inside: Inside<B, Option<OpenScope>>,
            length: BodyLength,
            // Made when a body with limits was pending for the first time.
            timer: Option<Box<DeadlineTimer>>,
            // How a timeout is reported.
            protocol: Protocol,
            // Taken when the body was not over at its first poll.
            stream: StreamPlace,
        },
        // The inner service's body, of a scope that an outer layer ends.
        Nested {
            #[pin]
            body: B,
            // The call that the body belongs to, if it limits bodies.
            call: Option<Call>,
        },
        // The layer's own response.
        Answer { bytes: Bytes, open: Option<OpenScope>, length: BodyLength },
        Done,
    }
}

/// The bytes of a body that are still to be yielded; `None` if its length is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLength(Option<u64>);

impl BodyLength {
    /// No body.
    pub(super) const NONE: Self = Self(Some(0));

    pub(super) fn of<B: Body>(body: &B) -> Self {
        if body.is_end_stream() {
            return Self::NONE;
        }
        Self(body.size_hint().exact())
    }

    pub(super) const fn of_bytes(bytes: &Bytes) -> Self {
        Self(Some(bytes.len() as u64))
    }

    /// The same, or the length in the response's header if the body does not know its own.
    pub(super) fn or_exact(self, length: impl FnOnce() -> Option<u64>) -> Self {
        Self(self.0.or_else(length))
    }

    /// Whether nothing is left, so that a drop from here on is no failure.
    pub(super) const fn is_none(self) -> bool {
        matches!(self.0, Some(0))
    }

    fn record(&mut self, bytes: usize) {
        if let Some(left) = &mut self.0 {
            *left = left.saturating_sub(bytes as u64);
        }
    }
}

impl<B> State<B> {
    /// The one end of every body: drops the inner body, then ends the scope. Without a `reason` the body
    /// was dropped.
    fn finish(mut self: Pin<&mut Self>, reason: Option<CancelReason>) {
        let (open, length) = match self.as_mut().project() {
            StateProjection::Open {
                mut inside,
                length,
                stream,
                ..
            } => {
                if let Some(open) = inside.place() {
                    stream.remove(open.scope());
                }
                inside.as_mut().clear();
                (inside.place_mut().take(), *length)
            }
            StateProjection::Answer { open, length, .. } => (open.take(), *length),
            StateProjection::Nested { .. } | StateProjection::Done => (None, BodyLength::NONE),
        };
        self.set(Self::Done);
        if let Some(open) = open {
            open.finish(reason.unwrap_or(CancelReason::new(if length.is_none() {
                Outcome::Completed
            } else {
                Outcome::Abandoned
            })));
        }
    }
}

impl<B> ResponseBody<B> {
    /// The inner service's body.
    pub(super) fn inner(
        body: B,
        place: Option<Place>,
        length: BodyLength,
        protocol: Protocol,
    ) -> Self {
        let open = match place {
            Some(Place::Outermost(open)) => open,
            Some(Place::Nested(call)) => return Self::nested(body, call.responded()),
            None => return Self::nested(body, None),
        };
        let state = State::Open {
            inside: Inside::new(body, Some(open)),
            length,
            timer: None,
            protocol,
            stream: StreamPlace::none(),
        };
        Self { state }
    }

    /// The inner service's body, of a scope that an outer layer ends.
    pub(super) const fn nested(body: B, call: Option<Call>) -> Self {
        Self {
            state: State::Nested { body, call },
        }
    }

    /// A body made by the middleware.
    pub(super) fn answer(
        bytes: Bytes,
        place: Option<Place>,
        length: BodyLength,
        _protocol: Protocol,
    ) -> Self {
        let open = match place {
            Some(Place::Outermost(open)) => Some(open),
            Some(Place::Nested(_)) | None => None,
        };
        let state = State::Answer {
            bytes,
            open,
            length,
        };
        Self { state }
    }
}

/// Ends a body that exceeded its limit, or is cut off by a shutdown. Returns its last frame.
#[cold]
fn cut_off<B>(
    mut state: Pin<&mut State<B>>,
    reason: CancelReason,
) -> Result<Frame<Bytes>, BoxError> {
    let StateProjection::Open {
        inside, protocol, ..
    } = state.as_mut().project()
    else {
        unreachable!("only an open body has limits");
    };
    let protocol = *protocol;
    let Some(scope) = inside.place().as_ref().map(OpenScope::scope) else {
        unreachable!("an open body has a scope");
    };
    // Before the body is dropped, so that what it drops can see why.
    scope.cancel_for(reason);
    let (error, status): (BoxError, _) = match reason.deadline_source() {
        Some(source) => {
            let after = scope.limits().age();
            (
                Box::new(BodyTimeoutError { source, after }),
                wire::DEADLINE_EXCEEDED,
            )
        }
        None => (reason.to_string().into(), wire::UNAVAILABLE),
    };
    state.finish(Some(reason));
    wire::last_frame(protocol, status, &error.to_string()).ok_or(error)
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
        let (mut inside, length, timer, stream) = match state.as_mut().project() {
            StateProjection::Open {
                inside,
                length,
                timer,
                stream,
                ..
            } => (inside, length, timer, stream),
            StateProjection::Nested { body, .. } => return body.poll_frame(cx).map_err(Into::into),
            StateProjection::Answer { bytes, .. } => {
                let bytes = std::mem::take(bytes);
                state.finish(Some(CancelReason::new(Outcome::Completed)));
                let frame = Some(bytes).filter(|bytes| !bytes.is_empty());
                return Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))));
            }
            StateProjection::Done => return Poll::Ready(None),
        };
        // A body that always has a frame is never pending, so the deadline is checked before each.
        let cut = inside.place().as_ref().and_then(|open| {
            let expired = open.scope().limits().expired();
            expired.map(CancelReason::deadline).or_else(|| {
                stream
                    .is_cut_off(open.scope())
                    .then(|| CancelReason::new(Outcome::Shutdown))
            })
        });
        if let Some(reason) = cut {
            return Poll::Ready(Some(cut_off(state, reason)));
        }
        let (mut over, mut given) = (None, None);
        let polled = inside.as_mut().run(|mut slot| {
            let Some(mut body) = slot.as_mut().as_pin_mut() else {
                unreachable!("an open body is not over");
            };
            let polled = body.as_mut().poll_frame(cx);
            over = match &polled {
                Poll::Pending => None,
                Poll::Ready(None) => Some(Outcome::Completed),
                Poll::Ready(Some(Err(_))) => Some(Outcome::ServiceError),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        given = Some((data.len(), data.is_unique()));
                        length.record(data.len());
                    }
                    // A server may stop polling after either, without seeing the end itself.
                    let last = frame.is_trailers() || body.is_end_stream();
                    last.then_some(Outcome::Completed)
                }
            };
            if over.is_some() {
                slot.set(None);
            }
            polled
        });
        let mut cut = None;
        if over.is_none() {
            if let Some(open) = inside.place_mut() {
                if let Some((bytes, is_unique)) = given {
                    open.gave(bytes, is_unique);
                }
                if stream.register(open.scope(), false, cx.waker()) {
                    cut = Some(CancelReason::new(Outcome::Shutdown));
                }
                if polled.is_pending() {
                    let expired = open.poll_body_deadline(timer, cx);
                    cut = expired.map(CancelReason::deadline).or(cut);
                }
            }
        }
        if polled.is_pending() {
            return match cut {
                Some(reason) => Poll::Ready(Some(cut_off(state, reason))),
                None => Poll::Pending,
            };
        }
        if let Some(timer) = timer {
            timer.yielded();
        }
        if let Some(outcome) = over {
            state.finish(Some(CancelReason::new(outcome)));
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open { inside, .. } => inside.get().is_none_or(Body::is_end_stream),
            State::Nested { body, .. } => body.is_end_stream(),
            State::Answer { bytes, .. } => bytes.is_empty(),
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Open { inside, .. } => inside
                .get()
                .map_or_else(|| SizeHint::with_exact(0), Body::size_hint),
            State::Nested { body, .. } => body.size_hint(),
            State::Answer { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            State::Done => SizeHint::with_exact(0),
        }
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
        let (open, length) = match &self.state {
            State::Open { inside, length, .. } => (inside.place().as_ref(), Some(length)),
            State::Answer { open, length, .. } => (open.as_ref(), Some(length)),
            State::Nested { .. } | State::Done => (None, None),
        };
        f.debug_struct("ResponseBody")
            .field("scope", &open.map(OpenScope::scope))
            .field("length", &length)
            .finish_non_exhaustive()
    }
}
