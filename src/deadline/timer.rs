use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    limits::{Limits, earlier},
    source::DeadlineSource,
};

pin_project! {
    /// The timer of a response future, and later of its body.
    ///
    /// It is polled after the inner future or body was pending. The tokio timer is made at the first
    /// such poll that has a deadline.
    pub(crate) struct DeadlineTimer {
        // When the server began to wait for the next frame, if that is limited.
        waiting: Option<Instant>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl DeadlineTimer {
    pub(crate) const fn new() -> Self {
        Self {
            waiting: None,
            sleep: None,
        }
    }

    /// Returns the source of the deadline once it has passed.
    pub(crate) fn poll(
        self: Pin<&mut Self>,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        self.poll_until(cx, || limits.next_deadline())
    }

    /// As [`poll`](Self::poll), with the limit on idle bodies. Makes the timer if there is a limit.
    pub(crate) fn poll_body(
        slot: &mut Option<Pin<Box<Self>>>,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        let idle = limits.body_idle();
        if idle.is_none() && limits.next_deadline().is_none() {
            return None;
        }
        let timer = slot.get_or_insert_with(|| Box::pin(Self::new()));
        let idle = idle.and_then(|idle| timer.as_mut().idle_deadline(idle));
        timer
            .as_mut()
            .poll_until(cx, || earlier(limits.next_deadline(), idle))
    }

    /// The body has yielded a frame.
    pub(crate) fn yielded(self: Pin<&mut Self>) {
        *self.project().waiting = None;
    }

    fn idle_deadline(self: Pin<&mut Self>, idle: Duration) -> Option<(Instant, DeadlineSource)> {
        let waiting = *self.project().waiting.get_or_insert_with(Instant::now);
        Some((waiting.checked_add(idle)?, DeadlineSource::BodyIdleTimeout))
    }

    fn poll_until(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        deadline: impl Fn() -> Option<(Instant, DeadlineSource)>,
    ) -> Option<DeadlineSource> {
        let mut sleep = self.project().sleep;
        loop {
            let (at, _) = deadline()?;
            match sleep.as_mut().as_pin_mut() {
                None => sleep.set(Some(sleep_until(at))),
                Some(sleep) if sleep.deadline() != at => sleep.reset(at),
                Some(_) => {}
            }
            let armed = sleep.as_mut().as_pin_mut()?;
            // Without tokio's cooperative budget: a handler that has used it up must time out, too.
            let Poll::Ready(()) = Pin::new(&mut tokio::task::unconstrained(armed)).poll(cx) else {
                return None;
            };
            // The deadline may have been moved since the timer was set.
            let (at, source) = deadline()?;
            if at <= Instant::now() {
                return Some(source);
            }
        }
    }
}
