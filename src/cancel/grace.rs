use std::{task::Context, time::Duration};

use tokio::time::Instant;

use crate::{account::aside, housekeeping::Timer};

/// The future was dropped because it exceeded its grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted;

/// The time that a future has after its request was cancelled.
#[derive(Default)]
pub(crate) struct Grace {
    /// The end, with its timer; `None` before the grace period begins. In no account, so that a task's
    /// bytes are its own.
    end: Option<Box<End>>,
}

/// The end of a grace period; `None` if that is too far away for the clock.
type End = (Option<Instant>, Timer);

impl Grace {
    /// Whether the grace period has begun.
    pub(crate) const fn has_begun(&self) -> bool {
        self.end.is_some()
    }

    /// Begins a grace period.
    #[cold]
    pub(crate) fn begin(&mut self, grace: Duration) {
        let grace = grace
            * if bug!("grace-ten-times-as-long") {
                10
            } else {
                1
            };
        let end = (Instant::now().checked_add(grace), Timer::new());
        self.end = Some(aside(|| Box::new(end)));
    }

    /// Whether the grace period is over. If not, the task is woken at its end.
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        match self.end.as_deref_mut() {
            Some((Some(end), timer)) => timer.poll(*end, cx),
            _ => false,
        }
    }
}

impl Drop for Grace {
    #[inline]
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            aside(|| drop(end));
        }
    }
}
