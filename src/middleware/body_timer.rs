use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{cancel::DeadlineSource, scope::RequestScope};

pin_project! {
    /// Waits for the limits of one body.
    pub(super) struct BodyTimer {
        // Since when the server waits for the next frame, if that is limited.
        waiting: Option<Instant>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl BodyTimer {
    /// The body of `scope` is pending. Who set the limit that has passed, if one has. The timer in
    /// `slot` is made when there is a limit for the first time.
    pub(super) fn poll_waiting(
        slot: &mut Option<Pin<Box<Self>>>,
        scope: &RequestScope,
        cx: &mut Context<'_>,
    ) -> Option<DeadlineSource> {
        let deadline = scope.deadline_and_source();
        let idle = scope.body_idle_limit();
        if deadline.is_none() && idle.is_none() {
            return None;
        }
        let timer = slot.get_or_insert_with(|| {
            Box::pin(Self {
                waiting: None,
                sleep: None,
            })
        });
        let mut this = timer.as_mut().project();
        let idle = idle.and_then(|idle| {
            let waiting = *this.waiting.get_or_insert_with(Instant::now);
            let at = waiting.checked_add(idle)?;
            Some((at, DeadlineSource::BodyIdleTimeout))
        });
        let (at, source) = match (idle, deadline) {
            (Some(idle), Some(deadline)) if idle.0 < deadline.0 => idle,
            (idle, deadline) => deadline.or(idle)?,
        };
        match this.sleep.as_mut().as_pin_mut() {
            None => this.sleep.set(Some(sleep_until(at))),
            Some(sleep) if sleep.deadline() != at => sleep.reset(at),
            Some(_) => {}
        }
        let sleep = this.sleep.as_mut().as_pin_mut()?;
        // Without tokio's cooperative budget, which a busy connection may have used up.
        match Pin::new(&mut tokio::task::unconstrained(sleep)).poll(cx) {
            Poll::Ready(()) => Some(source),
            Poll::Pending => None,
        }
    }

    /// There was a frame.
    pub(super) fn gave(self: Pin<&mut Self>) {
        *self.project().waiting = None;
    }
}
