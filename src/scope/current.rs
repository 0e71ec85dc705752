//! Which scope the calling thread works for.
//!
//! The handle is *moved* from its owner into the thread's cell while the owner is polled, and back
//! afterwards: no reference count is touched on the way.

use std::cell::Cell;

use super::handle::RequestScope;
use crate::{
    account::{Entry, Writer},
    cancel::{CancelReason, Outcome},
};

thread_local! {
    static CURRENT: Cell<Option<RequestScope>> = const { Cell::new(None) };
}

pub(super) fn get() -> Option<RequestScope> {
    CURRENT
        .try_with(|current| {
            let scope = current.take();
            let clone = scope.clone();
            current.set(scope);
            clone
        })
        .ok()
        .flatten()
}

/// Swaps the current scope with `slot`; nothing happens on a thread that is ending.
fn swap(slot: &mut Option<RequestScope>) {
    let _ = CURRENT.try_with(|current| {
        let former = current.replace(slot.take());
        *slot = former;
    });
}

/// Makes the scope in `slot` the current one, and enters its account, until the guard is dropped.
/// `slot` holds the former current scope meanwhile.
pub(super) fn enter(slot: &mut Option<RequestScope>, writer: Writer) -> EnteredScope<'_> {
    let entry = slot
        .as_ref()
        .map_or(Entry::Inert, |scope| scope.inner().account.begin());
    swap(slot);
    EnteredScope {
        slot,
        entry,
        writer,
        on_unwind: None,
    }
}

/// Guard of [`enter`].
#[must_use]
pub(crate) struct EnteredScope<'a> {
    slot: &'a mut Option<RequestScope>,
    entry: Entry,
    writer: Writer,
    on_unwind: Option<CancelReason>,
}

impl EnteredScope<'_> {
    /// Cancels the scope with this reason if the guard is dropped before [`done`](Self::done).
    ///
    /// `std::thread::panicking` would not do: it is also true while an outer panic unwinds, and
    /// not any more where a panic was caught further in.
    pub(super) fn or_panicked(mut self) -> Self {
        self.on_unwind = Some(CancelReason::new(Outcome::Panicked));
        self
    }

    /// The guarded code returned.
    pub(crate) fn done(mut self) {
        self.on_unwind = None;
    }
}

impl Drop for EnteredScope<'_> {
    fn drop(&mut self) {
        swap(self.slot);
        if let Some(scope) = self.slot.as_ref() {
            let inner = scope.inner();
            inner.account.leave(self.entry, self.writer);
            if let Some(reason) = self.on_unwind {
                inner.cancel(reason);
            }
        }
    }
}
