//! The scope that the calling thread works for.
//!
//! # Invariants
//!
//! 1. The reference is *moved* from its owner into the thread's cell while the owner is polled, and back
//!    when the guard is dropped, so that entering changes no reference count. The owner is borrowed by
//!    the guard meanwhile, so its empty slot is never seen.
//! 2. Guards are dropped in the reverse order of their creation, so a swap restores what was there.

use std::{cell::Cell, mem::ManuallyDrop};

use super::state::ScopeState;
#[cfg(feature = "trace")]
use crate::trace::Slice;
use crate::{
    account::{Entry, Writer},
    cancel::{CancelReason, Outcome},
    counted::Counted,
};

/// A slot that is not emptied by a drop.
type Slot = ManuallyDrop<Option<Counted<ScopeState>>>;

thread_local! {
    // Without a destructor, so that an access need not ask for its state. The guards take everything out.
    static CURRENT: Cell<Slot> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// Calls `f` with the current scope.
#[inline]
fn with<T>(f: impl FnOnce(Option<&Counted<ScopeState>>) -> T) -> T {
    CURRENT.with(|current| {
        let scope = current.take();
        let result = f(scope.as_ref());
        current.set(scope);
        result
    })
}

#[inline]
pub(super) fn get() -> Option<Counted<ScopeState>> {
    with(|scope| scope.cloned())
}

/// Whether the calling thread works for a scope.
#[inline]
pub(super) fn is_some() -> bool {
    with(|scope| scope.is_some())
}

/// Drops a handle. Returns it if it may be the last one.
///
/// If the thread works for its scope and has all of its references, this takes no locked instruction. That is so
/// when the request's extensions are dropped.
#[inline]
pub(super) fn drop_beside(handle: Counted<ScopeState>) -> Option<Counted<ScopeState>> {
    CURRENT.with(|current| {
        let mut scope = current.take();
        let left = match scope.as_mut() {
            Some(scope) => handle.drop_beside(scope),
            None => Some(handle),
        };
        current.set(scope);
        left
    })
}

/// Swaps the current scope with `slot`.
#[inline]
fn swap(slot: &mut Option<Counted<ScopeState>>) {
    CURRENT.with(|current| {
        let former = current.replace(ManuallyDrop::new(slot.take()));
        *slot = ManuallyDrop::into_inner(former);
    });
}

/// Makes the scope in `slot` the current one, and enters its account, until the guard is dropped.
#[inline]
pub(super) fn enter(slot: &mut Option<Counted<ScopeState>>, writer: Writer) -> EnteredScope<'_> {
    #[cfg(feature = "trace")]
    let slice = Slice::begin(|| slot.as_deref().map(ScopeState::traced_poll));
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
    pub(crate) fn done(self) {
        // Not the drop, which is no part of the code that it is called from.
        let mut guard = ManuallyDrop::new(self);
        guard.guards_panics = false;
        guard.leave();
        guard.end_slice();
    }

    /// Ends the slice of the flight recorder.
    #[inline]
    #[cfg_attr(
        not(feature = "trace"),
        expect(
            clippy::missing_const_for_fn,
            clippy::unused_self,
            reason = "with the feature"
        )
    )]
    fn end_slice(&mut self) {
        #[cfg(feature = "trace")]
        self.slice
            .end(|| self.slot.as_deref().map(ScopeState::traced));
    }

    /// Leaves the scope, and returns it.
    #[inline]
    fn leave(&mut self) -> Option<&Counted<ScopeState>> {
        swap(self.slot);
        let scope = self.slot.as_ref()?;
        if !(self.guards_panics && bug!("account-not-left-by-a-panic")) {
            scope.account.leave(self.entry);
        }
        ScopeState::section_ended(scope);
        Some(scope)
    }
}

impl Drop for EnteredScope<'_> {
    fn drop(&mut self) {
        let guards_panics = self.guards_panics;
        if let Some(scope) = self.leave().filter(|_| guards_panics) {
            panicked(scope);
        }
        self.end_slice();
    }
}

#[cold]
#[inline(never)]
fn panicked(scope: &Counted<ScopeState>) {
    if !bug!("panic-not-noticed") {
        scope.cancel(CancelReason::new(Outcome::Panicked));
    }
}
