use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{cancel::CancelReason, scope::Keeper};

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
    #[must_use = "a body does nothing unless polled"]
    pub struct ResponseBody<B> {
        // Emptied when it is over, so that its drop is accounted.
        #[pin]
        inner: Option<B>,
        // The middleware's own answer, in place of an inner body.
        own: Option<Bytes>,
        keeper: Option<Keeper>,
        progress: Progress,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let reason = if this.progress.complete {
                CancelReason::Completed
            } else {
                CancelReason::ClientGone
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

impl<B> ResponseBody<B> {
    /// The inner service's body. Without a keeper an outer layer looks after the scope.
    pub(super) const fn open(inner: B, keeper: Option<Keeper>, progress: Progress) -> Self {
        Self {
            inner: Some(inner),
            own: None,
            keeper,
            progress,
        }
    }

    /// A body made by the middleware.
    pub(super) const fn own(bytes: Bytes, keeper: Option<Keeper>, progress: Progress) -> Self {
        Self {
            inner: None,
            own: Some(bytes),
            keeper,
            progress,
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            if let Some(bytes) = this.own.take() {
                this.progress.complete = true;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            finish(this.inner, this.keeper, CancelReason::Completed);
            return Poll::Ready(None);
        };
        let Some(keeper) = this.keeper.as_mut() else {
            return inner.poll_frame(cx);
        };
        let entered = keeper.enter();
        let polled = inner.poll_frame(cx);
        let over = match &polled {
            Poll::Pending => None,
            Poll::Ready(None) => Some(CancelReason::Completed),
            Poll::Ready(Some(Err(_))) => Some(CancelReason::ServiceError),
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
                last.then_some(CancelReason::Completed)
            }
        };
        if over.is_some() {
            this.inner.set(None);
        }
        entered.done();
        if let Some(reason) = over {
            finish(this.inner, this.keeper, reason);
        }
        polled
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
