//! The `tracing` span of a task.

pub(crate) use tracing::span::Entered as EnteredSpan;

use tracing::{Span, level_filters::LevelFilter};

use crate::account::aside;

/// The span that was the current one where a task, or a request, was started. A task is polled and dropped
/// inside it.
///
/// The box is made with the first span, and kept for later ones.
#[derive(Debug)]
pub(crate) struct TaskSpan(Option<Box<Span>>);

static NONE: Span = Span::none();

impl TaskSpan {
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Sets the span that is the current one here, if there is none so far.
    #[inline]
    pub(crate) fn set_current(&mut self) {
        // Without a subscriber no level is on, and no span is looked for.
        if LevelFilter::current() != LevelFilter::OFF {
            self.look_for_current();
        }
    }

    #[inline(never)]
    fn look_for_current(&mut self) {
        let span = Span::current();
        match &mut self.0 {
            Some(kept) => **kept = span,
            None if span.is_disabled() => {}
            None => self.0 = Some(aside(|| Box::new(span))),
        }
    }

    /// Lets go of the span, so that it can close.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if let Some(kept) = &mut self.0 {
            **kept = Span::none();
        }
    }

    pub(crate) fn get(&self) -> &Span {
        self.0.as_deref().unwrap_or(&NONE)
    }

    pub(crate) fn enter(&self) -> EnteredSpan<'_> {
        self.get().enter()
    }
}
