//! The `tracing` span of a task.

pub(crate) use tracing::span::Entered as EnteredSpan;

use tracing::Span;

/// The span that was the current one where a task, or a request, was started. A task is polled and dropped
/// inside it.
#[derive(Debug)]
pub(crate) struct TaskSpan(Span);

impl TaskSpan {
    pub(crate) fn current() -> Self {
        Self(Span::current())
    }

    pub(crate) const fn none() -> Self {
        Self(Span::none())
    }

    /// Lets go of the span, so that it can close.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if !self.0.is_disabled() {
            self.0 = Span::none();
        }
    }

    pub(crate) const fn get(&self) -> &Span {
        &self.0
    }

    pub(crate) fn enter(&self) -> EnteredSpan<'_> {
        self.0.enter()
    }
}
