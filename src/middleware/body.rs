use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{body_error::BodyTimeoutError, body_timer::BodyTimer};
use crate::{
    cancel::{CancelReason, DeadlineSource, Outcome},
    scope::{Keeper, RequestScope},
    wire as answers,
};

pin_project! {
    /// The response body of [`MemoryService`](super::MemoryService).
    ///
    /// It passes the inner body on as it is: frames, trailers, size hint and end of stream, so a
    /// server frames the response as it would without the layer. Inside, it accounts each poll
    /// to the request and ends the scope when the body is over.
    ///
    /// # When a body is complete
    ///
    /// Servers drop many bodies without ever polling them to their end. So a dropped body counts as
    /// complete if its end was seen, or it says that it is at its end, or all bytes it promised
    /// were given out, or the response has no body by the rules of HTTP (`HEAD`, 1xx, 204, 304).
    /// "Complete" means handed to the server; whether the bytes reached the client is known to the
    /// server alone.
    ///
    /// # Limits
    ///
    /// A body whose time is over (`body_timeout` or `body_idle_timeout` of a `MemoryLayer` or
    /// `RoutePolicy`) is dropped, and ends with a
    /// [`BodyTimeoutError`](super::BodyTimeoutError), so that the client can tell it from a complete
    /// one. In gRPC it ends with the trailers that say so instead. Therefore the error is boxed; the
    /// inner body's own errors are in that box as they came.
    ///
    /// The limits are looked at when the server asks for more. While it does not, because the client
    /// reads nothing of what has been written, they do not end the response.
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
    /// assert_eq!(outcomes.get(Outcome::ClientGone), 1);
    /// assert_eq!(outcomes.get(Outcome::Completed), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "a body does nothing unless polled"]
    pub struct ResponseBody<B> {
        // Emptied when it is over, so that its drop is accounted.
        #[pin]
        inner: Option<B>,
        // The middleware's own answer, in place of an inner body.
        own: Option<Bytes>,
        keeper: Option<Keeper>,
        progress: Progress,
        // Made when a body with limits was pending for the first time.
        timer: Option<Pin<Box<BodyTimer>>>,
        // Whether a failure is told in trailers.
        grpc: bool,
        // Whether the scope has this body's task.
        noted: bool,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            forget_task(this.keeper, this.noted);
            let reason = if this.progress.complete {
                CancelReason::new(Outcome::Completed)
            } else {
                CancelReason::new(Outcome::ClientGone)
            };
            finish(this.inner, this.keeper, reason);
        }
    }
}

/// What a body says of itself when it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    at_end: bool,
    bytes: Option<u64>,
}

impl Extent {
    pub(super) fn of<B: Body>(body: &B) -> Self {
        Self {
            at_end: body.is_end_stream(),
            bytes: body.size_hint().exact(),
        }
    }

    pub(super) const fn of_bytes(bytes: &Bytes) -> Self {
        Self {
            at_end: false,
            bytes: Some(bytes.len() as u64),
        }
    }

    /// With the length that the response's header says, if the body does not know its own.
    pub(super) fn or_length(self, length: impl FnOnce() -> Option<u64>) -> Self {
        Self {
            bytes: self.bytes.or_else(length),
            ..self
        }
    }
}

/// How much of the body was given out.
#[derive(Debug)]
pub(super) struct Progress {
    /// Whether a drop from here on means that all went well.
    complete: bool,
    given: u64,
    /// Bytes that were promised, if that is known.
    promised: Option<u64>,
}

impl Progress {
    /// Nothing given out yet; `bodiless` if by the rules of HTTP nothing will be.
    pub(super) fn new(extent: Extent, bodiless: bool) -> Self {
        Self {
            complete: bodiless || extent.at_end || extent.bytes == Some(0),
            given: 0,
            promised: extent.bytes,
        }
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    fn gave(&mut self, bytes: usize) {
        self.given = self.given.saturating_add(bytes as u64);
        self.complete |= self.promised.is_some_and(|promised| self.given >= promised);
    }
}

/// The one end of every body: drops what is inside, then ends the scope.
fn finish<B>(mut inner: Pin<&mut Option<B>>, keeper: &mut Option<Keeper>, reason: CancelReason) {
    let Some(mut keeper) = keeper.take() else {
        inner.set(None);
        return;
    };
    if inner.is_some() {
        let entered = keeper.enter();
        inner.set(None);
        entered.done();
    }
    keeper.finish(reason);
}

/// Who set the scope's deadline, if that has passed.
fn passed(scope: &RequestScope) -> Option<DeadlineSource> {
    let (at, source) = scope.deadline_and_source()?;
    (at <= Instant::now()).then_some(source)
}

/// A scope may be held for long after the response; the connection's task is not kept with it.
fn forget_task(keeper: &Option<Keeper>, noted: &mut bool) {
    if std::mem::take(noted) {
        if let Some(scope) = keeper.as_ref().and_then(Keeper::scope) {
            scope.wake_no_more();
        }
    }
}

/// Ends a body whose time is over; returns the last thing the server gets of it.
fn cut_off<B>(
    inner: Pin<&mut Option<B>>,
    keeper: &mut Option<Keeper>,
    source: DeadlineSource,
    grpc: bool,
) -> Result<Frame<Bytes>, Box<dyn Error + Send + Sync>> {
    let reason = CancelReason::deadline(source);
    let after = keeper
        .as_ref()
        .and_then(Keeper::scope)
        .map(|scope| {
            // Before the body is dropped, so that what it drops can see why.
            scope.cancel_for(reason);
            scope.age()
        })
        .unwrap_or_default();
    finish(inner, keeper, reason);
    let error = BodyTimeoutError { source, after };
    if grpc {
        Ok(Frame::trailers(answers::grpc_trailers(&error.to_string())))
    } else {
        Err(Box::new(error))
    }
}

impl<B> ResponseBody<B> {
    /// The inner service's body. Without a keeper an outer layer looks after the scope.
    pub(super) const fn open(inner: B, keeper: Option<Keeper>, progress: Progress) -> Self {
        Self {
            inner: Some(inner),
            own: None,
            keeper,
            progress,
            timer: None,
            grpc: false,
            noted: false,
        }
    }

    /// A body made by the middleware. An empty one is at its end: it needs no frame.
    pub(super) fn own(bytes: Bytes, keeper: Option<Keeper>, progress: Progress) -> Self {
        Self {
            inner: None,
            own: Some(bytes).filter(|bytes| !bytes.is_empty()),
            keeper,
            progress,
            timer: None,
            grpc: false,
            noted: false,
        }
    }

    /// In gRPC, a body that is cut off says so in trailers.
    pub(super) fn failing_in_trailers(mut self, grpc: bool) -> Self {
        self.grpc = grpc;
        self
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            if let Some(bytes) = this.own.take() {
                this.progress.complete = true;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            finish(
                this.inner,
                this.keeper,
                CancelReason::new(Outcome::Completed),
            );
            return Poll::Ready(None);
        };
        let Some(keeper) = this.keeper.as_mut() else {
            return inner.poll_frame(cx).map_err(Into::into);
        };
        // A body that always has a frame is never pending: look before each.
        if let Some(source) = keeper.scope().and_then(passed) {
            forget_task(this.keeper, this.noted);
            let last = cut_off(this.inner, this.keeper, source, *this.grpc);
            return Poll::Ready(Some(last));
        }
        let entered = keeper.enter();
        let polled = inner.poll_frame(cx);
        if polled.is_pending() {
            entered.done();
            let passed = keeper.scope().and_then(|scope| {
                // First the task, then the deadline: what is set in between wakes the task.
                *this.noted |= scope.wake_when_moved(cx.waker());
                BodyTimer::poll_waiting(this.timer, scope, cx)
            });
            let Some(source) = passed else {
                return Poll::Pending;
            };
            forget_task(this.keeper, this.noted);
            let last = cut_off(this.inner, this.keeper, source, *this.grpc);
            return Poll::Ready(Some(last));
        }
        if let Some(timer) = this.timer.as_mut() {
            timer.as_mut().gave();
        }
        let over = match &polled {
            Poll::Pending => None,
            Poll::Ready(None) => Some(CancelReason::new(Outcome::Completed)),
            Poll::Ready(Some(Err(_))) => Some(CancelReason::new(Outcome::ServiceError)),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.progress.gave(data.len());
                }
                // A server may stop asking after either, and never see the end itself.
                let last = frame.is_trailers()
                    || this
                        .inner
                        .as_ref()
                        .as_pin_ref()
                        .is_some_and(|inner| inner.is_end_stream());
                last.then_some(CancelReason::new(Outcome::Completed))
            }
        };
        if over.is_some() {
            this.inner.set(None);
        }
        entered.done();
        if let Some(reason) = over {
            forget_task(this.keeper, this.noted);
            finish(this.inner, this.keeper, reason);
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match (&self.inner, &self.own) {
            (Some(inner), _) => inner.is_end_stream(),
            (None, own) => own.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.own) {
            (Some(inner), _) => inner.size_hint(),
            (None, own) => SizeHint::with_exact(own.as_ref().map_or(0, |own| own.len() as u64)),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("progress", &self.progress)
            .field("keeper", &self.keeper)
            .finish_non_exhaustive()
    }
}
