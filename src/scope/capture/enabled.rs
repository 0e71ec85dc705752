use std::{
    cell::Cell,
    pin::Pin,
    // Not loom's, which cannot be in a `static`.
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;

use super::report::{Closed, ScopeReport};
use crate::sync::{Arc, Mutex, lock};

/// Whether there was a capture in this process. Most have none.
static USED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// What the next request that is opened on this thread reports to.
    static NEXT: Cell<Option<Capture>> = const { Cell::new(None) };
}

/// Takes the report of the first request that is opened in a future.
#[derive(Debug, Clone)]
pub(crate) struct Capture(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// No request was opened yet.
    Free,
    Open(Option<Waker>),
    Closed(Box<ScopeReport>),
    Taken,
}

impl Capture {
    pub(crate) fn new() -> Self {
        // Relaxed: a thread that polls what is captured has got it from the one that stores this.
        USED.store(true, Ordering::Relaxed);
        Self(Arc::new(Mutex::new(State::Free)))
    }

    /// The capture of the future that is polled, for a request that is opened.
    #[inline]
    pub(super) fn take() -> Option<Self> {
        if !USED.load(Ordering::Relaxed) {
            return None;
        }
        Self::take_next()
    }

    #[cold]
    fn take_next() -> Option<Self> {
        let capture = NEXT.try_with(Cell::take).ok().flatten()?;
        *lock(&capture.0) = State::Open(None);
        Some(capture)
    }

    pub(super) fn closed(&self, closed: &Closed<'_>) {
        let report = Box::new(closed.report());
        let former = std::mem::replace(&mut *lock(&self.0), State::Closed(report));
        if let State::Open(Some(waker)) = former {
            waker.wake();
        }
    }

    /// Returns the report when the request has closed, or `None` if none was opened.
    pub(crate) fn poll_report(&self, cx: &Context<'_>) -> Poll<Option<ScopeReport>> {
        let mut state = lock(&self.0);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Closed(report) => Poll::Ready(Some(*report)),
            State::Open(_) => {
                *state = State::Open(Some(cx.waker().clone()));
                Poll::Pending
            }
            State::Free | State::Taken => Poll::Ready(None),
        }
    }

    /// Wraps a future whose first request reports here.
    pub(crate) fn of<F>(&self, future: F) -> Capturing<F> {
        Capturing {
            future,
            capture: self.clone(),
        }
    }

    fn is_free(&self) -> bool {
        matches!(*lock(&self.0), State::Free)
    }
}

pin_project! {
    /// Returned by [`Capture::of`].
    pub(crate) struct Capturing<F> {
        #[pin]
        future: F,
        capture: Capture,
    }
}

/// Puts the former capture back: futures may be measured in one another.
struct PutBack(Option<Capture>);

impl Drop for PutBack {
    fn drop(&mut self) {
        let _ = NEXT.try_with(|next| next.replace(self.0.take()));
    }
}

impl<F: Future> Future for Capturing<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let next = this.capture.is_free().then(|| this.capture.clone());
        let _put_back = PutBack(NEXT.try_with(|cell| cell.replace(next)).ok().flatten());
        this.future.poll(cx)
    }
}
