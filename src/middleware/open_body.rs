use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{body_error::BodyTimeoutError, body_length::BodyLength};
use crate::{
    account::{Enter, Inside},
    cancel::{CancelReason, Outcome},
    deadline::{DeadlineTimer, Limited},
    scope::{OpenScope, StreamPlace},
    wire::{
        self, Protocol,
        header::{self, HeaderFormat},
    },
};

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The last frame of a body that was cut off.
pub(super) type LastFrame = Result<Frame<Bytes>, BoxError>;

pin_project! {
    /// The inner service's body, which ends the scope when it is over or dropped.
    pub(super) struct OpenBody<B> {
        // The scope is taken when the body is over.
        #[pin]
        inside: Inside<B, Option<OpenScope>>,
        length: BodyLength,
        // Made when a body with limits was pending for the first time.
        timer: Option<Box<DeadlineTimer>>,
        // The last frame, or the head before the first one, if the time between frames is limited.
        since: Option<Instant>,
        end: BodyEnd,
        // Taken when the body was not over at its first poll.
        stream: StreamPlace,
    }

    impl<B> PinnedDrop for OpenBody<B> {
        fn drop(this: Pin<&mut Self>) {
            if this.open().is_some() {
                this.finish(None);
            }
        }
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyEnd {
    /// How a timeout is reported.
    pub(super) protocol: Protocol,
    /// How the final figures are written behind it, if they are.
    pub(super) trailers: Option<HeaderFormat>,
}

impl<B> OpenBody<B> {
    #[inline]
    pub(super) const fn new(body: B, open: OpenScope, length: BodyLength, end: BodyEnd) -> Self {
        Self {
            inside: Inside::new(body, Some(open)),
            length,
            timer: None,
            since: None,
            end,
            stream: StreamPlace::none(),
        }
    }

    /// Whether it has a limit from its head on. The silence of a body with a limit for that begins here.
    pub(super) fn is_limited(&mut self) -> bool {
        let Some(open) = self.inside.place() else {
            return false;
        };
        let limits = open.scope().limits();
        if limits.body_idle().is_some() {
            self.since = Some(Instant::now());
        }
        limits.body_deadline(self.since).is_some()
    }

    /// The scope, until the body is over.
    pub(super) const fn open(&self) -> Option<&OpenScope> {
        self.inside.place().as_ref()
    }

    pub(super) const fn length(&self) -> BodyLength {
        self.length
    }

    /// The one end of every body: drops the inner body, then ends the scope. Without a `reason` the body
    /// was dropped.
    fn finish(self: Pin<&mut Self>, reason: Option<CancelReason>) {
        let mut this = self.project();
        if let Some(open) = this.inside.place() {
            this.stream.remove(open.scope());
        }
        this.inside.as_mut().clear();
        if this.timer.is_some() {
            *this.timer = None;
        }
        if let Some(open) = this.inside.place_mut().take() {
            open.scope().set_body_taker(None);
            open.finish(reason.unwrap_or(this.length.reason_of_drop()));
        }
    }

    /// Ends a body that is complete. Returns its last frame: the trailers that it has, and the figures. The inner
    /// body has been dropped, so these are final unless there are tasks.
    #[cold]
    #[inline(never)]
    fn finish_with_figures<E>(
        self: Pin<&mut Self>,
        last: Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let (Some(open), Some(format)) = (self.open(), self.end.trailers) else {
            return last;
        };
        let own = match last {
            Poll::Ready(Some(Ok(frame))) => frame.into_trailers().ok(),
            _ => None,
        };
        let mut trailers = own.unwrap_or_default();
        header::write(open.scope(), &mut trailers, format, None);
        self.finish(Some(CancelReason::new(Outcome::Completed)));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// The last frame of a body that is cut off now.
    fn last_frame(&self, reason: CancelReason) -> LastFrame {
        let (error, status): (BoxError, _) = match (reason.deadline_source(), self.open()) {
            (Some(source), Some(open)) => {
                let after = open.scope().limits().age();
                (
                    Box::new(BodyTimeoutError { source, after }),
                    wire::DEADLINE_EXCEEDED,
                )
            }
            (None, Some(open)) if reason == Outcome::MemoryExceeded => {
                let cause = open.scope().cancelled_for(reason);
                (Box::new(cause), wire::RESOURCE_EXHAUSTED)
            }
            _ => (reason.to_string().into(), wire::UNAVAILABLE),
        };
        // The figures are for the server.
        let message = if reason == Outcome::MemoryExceeded {
            reason.to_string()
        } else {
            error.to_string()
        };
        wire::last_frame(self.end.protocol, status, &message).ok_or(error)
    }

    /// Ends a body that exceeded its limit, or is cut off by a shutdown. Returns its last frame.
    #[cold]
    fn cut_off(self: Pin<&mut Self>, reason: CancelReason) -> LastFrame {
        let last = self.last_frame(reason);
        self.end(reason);
        last
    }

    #[cold]
    fn end(self: Pin<&mut Self>, reason: CancelReason) {
        // Before the body is dropped, so that what it drops can see why.
        if let Some(open) = self.open() {
            open.scope().cancel_for(reason);
        }
        self.finish(Some(reason));
    }
}

impl<B> Limited<LastFrame> for Pin<Box<OpenBody<B>>> {
    type Reason = CancelReason;

    fn due(&self) -> Option<(Instant, CancelReason)> {
        let scope = self.open()?.scope();
        if let Some(reason) = scope.cancelled_for_memory() {
            return Some((scope.limits().start, reason));
        }
        // While memory is tight, it is as if it had been silent for longer.
        let spent = scope.idle_time_less();
        let since = self
            .since
            .map(|since| since.checked_sub(spent).unwrap_or(since));
        let (at, source) = scope.limits().body_deadline(since)?;
        Some((at, CancelReason::deadline(source)))
    }

    fn looks_again(&self) -> Option<Duration> {
        self.open()?.scope().looks_at_idle_body()
    }

    fn left(&self, reason: CancelReason) -> LastFrame {
        self.last_frame(reason)
    }

    fn cancel(&self, reason: CancelReason) {
        if let Some(open) = self.open() {
            open.scope().cancel_for(reason);
        }
    }

    fn end(mut self, reason: CancelReason) {
        self.as_mut().end(reason);
    }
}

impl<B> OpenBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls for a frame. The body may be over afterwards: then it has no scope any more.
    #[inline]
    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<LastFrame>> {
        if self.open().is_some() {
            self.poll_open(cx)
        } else {
            Poll::Ready(None)
        }
    }

    #[inline(never)]
    fn poll_open(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LastFrame>> {
        // A body that always has a frame is never pending, so the deadline is checked before each.
        let this = self.as_mut().project();
        let (mut inside, length, stream) = (this.inside, this.length, this.stream);
        let end = *this.end;
        let Some(open) = inside.place() else {
            return Poll::Ready(None);
        };
        let expired = open.scope().limits().expired();
        let cut = expired.map(CancelReason::deadline).or_else(|| {
            stream
                .is_cut_off(open.scope())
                .then(|| CancelReason::new(Outcome::Shutdown))
        });
        let cut = cut.or_else(|| open.scope().exceeded());
        if let Some(reason) = cut {
            return Poll::Ready(Some(self.cut_off(reason)));
        }
        // Not by `run`, which would move the frame once more.
        let (mut slot, entered) = inside.as_mut().enter();
        let Some(mut body) = slot.as_mut().as_pin_mut() else {
            unreachable!("an open body is not over");
        };
        let polled = body.as_mut().poll_frame(cx);
        let over = match &polled {
            Poll::Pending => None,
            Poll::Ready(None) => Some(Outcome::Completed),
            Poll::Ready(Some(Err(_))) => Some(Outcome::ServiceError),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    length.record(data.len());
                }
                // A server may stop polling after either, without seeing the end itself.
                let mut last = frame.is_trailers() || bug!("complete-at-the-first-frame");
                if !last && body.is_end_stream() {
                    // Unless trailers follow.
                    last = end.trailers.is_none();
                    *length = BodyLength::NONE;
                }
                last.then_some(Outcome::Completed)
            }
        };
        if over.is_some() {
            slot.set(None);
        }
        <Option<OpenScope>>::returned(entered);
        let mut cut = None;
        if over.is_none() {
            if let Some(open) = inside.place_mut() {
                if let Poll::Ready(Some(Ok(frame))) = &polled {
                    if let Some(data) = frame.data_ref() {
                        open.gave(data.len(), data.is_unique());
                    }
                }
                if stream.register(open.scope(), false, cx.waker()) {
                    cut = Some(CancelReason::new(Outcome::Shutdown));
                }
                if polled.is_pending() {
                    let expired = open.poll_body_deadline(this.timer, this.since, cx);
                    cut = expired.map(CancelReason::deadline).or(cut);
                    // After the waker was registered.
                    cut = cut.or_else(|| open.scope().exceeded());
                }
            }
        }
        if polled.is_pending() {
            return match cut {
                Some(reason) => Poll::Ready(Some(self.cut_off(reason))),
                None => Poll::Pending,
            };
        }
        if let Some(since) = this.since {
            *since = Instant::now();
        }
        let Some(outcome) = over else {
            return polled.map_err(Into::into);
        };
        if end.trailers.is_some() && outcome == Outcome::Completed {
            return self.finish_with_figures(polled).map_err(Into::into);
        }
        self.finish(Some(CancelReason::new(outcome)));
        polled.map_err(Into::into)
    }
}

impl<B: Body> OpenBody<B> {
    pub(super) fn is_end_stream(&self) -> bool {
        // The trailers are not at its end yet.
        let at_end = |body: &B| self.end.trailers.is_none() && body.is_end_stream();
        self.ask(at_end).unwrap_or(true)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.ask(Body::size_hint)
            .unwrap_or_else(|| SizeHint::with_exact(0))
    }

    /// Asks the body something, unless it is over.
    fn ask<T>(&self, f: impl FnOnce(&B) -> T) -> Option<T> {
        let body = self.inside.get()?;
        let mut asked = Asked(self.open());
        let answer = f(body);
        asked.0 = None;
        Some(answer)
    }
}

/// Dropped full by a panic of a body that is asked something, which is a panic like any other.
struct Asked<'a>(Option<&'a OpenScope>);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let panicked = CancelReason::new(Outcome::Panicked);
        self.0.inspect(|open| open.scope().cancel_for(panicked));
    }
}
