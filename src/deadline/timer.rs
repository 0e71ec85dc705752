use std::task::Context;

use tokio::time::Instant;

use super::{limits::Limits, source::DeadlineSource};
use crate::housekeeping::Timer;

/// The timer of a response future, or of a body.
///
/// It is polled after the inner future or body was pending. It is scheduled at the first such poll
/// that has a deadline.
pub(crate) struct DeadlineTimer {
    timer: Timer,
}

impl DeadlineTimer {
    pub(crate) const fn new() -> Self {
        Self {
            timer: Timer::new(),
        }
    }

    /// Returns the source of the deadline once it has passed.
    pub(crate) fn poll(&mut self, limits: &Limits, cx: &mut Context<'_>) -> Option<DeadlineSource> {
        self.poll_until(cx, limits.next_deadline())
    }

    /// Wakes nobody any more.
    #[inline]
    pub(crate) fn stop(&mut self) {
        self.timer.stop();
    }

    /// As [`poll`](Self::poll), with a call's deadline.
    pub(crate) fn poll_call(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<(Instant, DeadlineSource)>,
    ) -> Option<DeadlineSource> {
        self.poll_until(cx, deadline)
    }

    /// As [`poll`](Self::poll), for a body that has been silent since `since`, or since now. Makes the timer
    /// if there is a limit.
    pub(crate) fn poll_body(
        slot: &mut Option<Box<Self>>,
        limits: &Limits,
        since: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        if limits.body_idle().is_some() {
            since.get_or_insert_with(Instant::now);
        }
        let deadline = limits.body_deadline(*since)?;
        let timer = slot.get_or_insert_with(|| Box::new(Self::new()));
        timer.poll_until(cx, Some(deadline))
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
