use std::{task::Context, time::Duration};

use tokio::time::Instant;

use super::{
    limits::{Limits, earlier},
    source::DeadlineSource,
};
use crate::housekeeping::Timer;

/// The timer of a response future, and later of its body.
///
/// It is polled after the inner future or body was pending. It is scheduled at the first such poll
/// that has a deadline.
pub(crate) struct DeadlineTimer {
    /// When the server began to wait for the next frame, if that is limited.
    waiting: Option<Instant>,
    timer: Timer,
}

impl DeadlineTimer {
    pub(crate) const fn new() -> Self {
        Self {
            waiting: None,
            timer: Timer::new(),
        }
    }

    /// Returns the source of the deadline once it has passed.
    pub(crate) fn poll(&mut self, limits: &Limits, cx: &mut Context<'_>) -> Option<DeadlineSource> {
        self.poll_until(cx, limits.next_deadline())
    }

    /// As [`poll`](Self::poll), with a call's deadline.
    pub(crate) fn poll_call(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<(Instant, DeadlineSource)>,
    ) -> Option<DeadlineSource> {
        self.poll_until(cx, deadline)
    }

    /// As [`poll`](Self::poll), with the limit on idle bodies. Makes the timer if there is a limit.
    pub(crate) fn poll_body(
        slot: &mut Option<Box<Self>>,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        let idle = limits.body_idle();
        if idle.is_none() && limits.next_deadline().is_none() {
            return None;
        }
        let timer = slot.get_or_insert_with(|| Box::new(Self::new()));
        let idle = idle.and_then(|idle| timer.idle_deadline(idle));
        timer.poll_until(cx, earlier(limits.next_deadline(), idle))
    }

    /// The body has yielded a frame.
    pub(crate) fn yielded(&mut self) {
        self.waiting = None;
    }

    fn idle_deadline(&mut self, idle: Duration) -> Option<(Instant, DeadlineSource)> {
        let waiting = *self.waiting.get_or_insert_with(Instant::now);
        Some((waiting.checked_add(idle)?, DeadlineSource::BodyIdleTimeout))
    }

    fn poll_until(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<(Instant, DeadlineSource)>,
    ) -> Option<DeadlineSource> {
        let (at, source) = deadline?;
        self.timer.poll(at, cx).then_some(source)
    }
}
