//! No spans, for builds without the `tracing` feature.

/// Nothing.
#[derive(Debug)]
pub(crate) struct TaskSpan;

impl TaskSpan {
    pub(crate) const fn none() -> Self {
        Self
    }

    pub(crate) const fn set_current(&mut self) {}

    pub(crate) const fn clear(&mut self) {}

    pub(crate) const fn enter(&self) -> EnteredSpan<'_> {
        std::marker::PhantomData
    }
}

/// Guard of [`TaskSpan::enter`].
pub(crate) type EnteredSpan<'a> = std::marker::PhantomData<&'a TaskSpan>;
