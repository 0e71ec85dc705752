//! The scope that the calling thread works for.
//!
//! # Invariants
//!
//! 1. The reference is *moved* from its owner into the thread's cell while the owner is polled, and back
//!    when the guard is dropped, so that entering changes no reference count. The owner is borrowed by
//!    the guard meanwhile, so its empty slot is never seen.
//! 2. Guards are dropped in the reverse order of their creation, so a swap restores what was there.

use std::cell::Cell;

use super::state::ScopeState;
#[cfg(feature = "trace")]
use crate::trace::Slice;
use crate::{
    account::{Entry, Writer},
    cancel::{CancelReason, Outcome},
    counted::Counted,
};

thread_local! {
    static CURRENT: Cell<Option<Counted<ScopeState>>> = const { Cell::new(None) };
}

pub(super) fn get() -> Option<Counted<ScopeState>> {
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

/// Whether the calling thread works for a scope.
pub(super) fn is_some() -> bool {
    CURRENT
        .try_with(|current| {
            let scope = current.take();
            let is_some = scope.is_some();
            current.set(scope);
            is_some
        })
        .unwrap_or(false)
}

/// Swaps the current scope with `slot`. Does nothing on a thread that is ending.
fn swap(slot: &mut Option<Counted<ScopeState>>) {
    let _ = CURRENT.try_with(|current| *slot = current.replace(slot.take()));
}

/// Makes the scope in `slot` the current one, and enters its account, until the guard is dropped.
#[inline]
pub(super) fn enter(slot: &mut Option<Counted<ScopeState>>, writer: Writer) -> EnteredScope<'_> {
    #[cfg(feature = "trace")]
    let slice = Slice::begin(|| slot.as_deref().map(ScopeState::traced));
    #[cfg_attr(not(feature = "trace"), expect(unused_mut))]
    let mut entered = enter_untraced(slot, writer);
    #[cfg(feature = "trace")]
    {
        entered.slice = slice;
    }
    entered
}

/// As [`enter`], for a poll that the flight recorder sees elsewhere.
#[inline]
pub(super) fn enter_untraced(
    slot: &mut Option<Counted<ScopeState>>,
    writer: Writer,
) -> EnteredScope<'_> {
    let entry = slot
        .as_ref()
        .map_or(Entry::Inert, |scope| scope.account.begin(writer));
    swap(slot);
    EnteredScope {
        slot,
        entry,
        guards_panics: false,
        #[cfg(feature = "trace")]
        slice: Slice::none(),
    }
}

/// Guard of [`enter`].
#[must_use]
pub(crate) struct EnteredScope<'a> {
    slot: &'a mut Option<Counted<ScopeState>>,
    entry: Entry,
    guards_panics: bool,
    #[cfg(feature = "trace")]
    slice: Slice,
}

impl EnteredScope<'_> {
    /// Cancels the scope as panicked if the guard is dropped before [`done`](Self::done).
    ///
    /// `std::thread::panicking` is no substitute: it is also true while an outer panic unwinds, and
    /// false after an inner one was caught.
    #[inline]
    pub(super) fn or_panicked(mut self) -> Self {
        self.guards_panics = true;
        self
    }

    /// The guarded code returned.
    #[inline]
    pub(crate) fn done(mut self) {
        self.guards_panics = false;
    }
}

impl Drop for EnteredScope<'_> {
    fn drop(&mut self) {
        swap(self.slot);
        if let Some(scope) = self.slot.as_ref() {
            if !(self.guards_panics && bug!("account-not-left-by-a-panic")) {
                scope.account.leave(self.entry);
            }
            ScopeState::section_ended(scope);
            if self.guards_panics && !bug!("panic-not-noticed") {
                scope.cancel(CancelReason::new(Outcome::Panicked));
            }
        }
        #[cfg(feature = "trace")]
        self.slice
            .end(|| self.slot.as_deref().map(ScopeState::traced));
    }
}
