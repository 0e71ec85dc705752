//! Recycled scopes, kept by the thread that dropped their last handle.
//!
//! A recycled scope refers to no layer, so all layers share them, and a layer can end while they wait.

use std::cell::{Cell, RefCell};

use super::state::ScopeState;
use crate::counted::Counted;

/// Maximum number of recycled scopes that a thread keeps, beside the last one.
const MAX_RECYCLED: usize = 63;

thread_local! {
    /// The last one. It serves most requests, since their scopes close before the next one is opened.
    static LAST: Cell<Option<Counted<ScopeState>>> = const { Cell::new(None) };
    static RECYCLED: RefCell<Vec<Counted<ScopeState>>> = const { RefCell::new(Vec::new()) };
}

/// Returns a scope without handles, recycled or new.
#[inline]
pub(super) fn take() -> Counted<ScopeState> {
    match LAST.try_with(Cell::take) {
        Ok(Some(last)) => last,
        _ => take_older(),
    }
}

#[inline(never)]
fn take_older() -> Counted<ScopeState> {
    RECYCLED
        .try_with(|recycled| recycled.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| Counted::new(ScopeState::new()))
}

/// Drops a handle, and keeps the scope if it was the last one.
#[inline]
pub(super) fn drop_handle(handle: Counted<ScopeState>) {
    if let Some(last) = handle.into_last() {
        release(last);
    }
}

#[inline(never)]
fn release(mut scope: Counted<ScopeState>) {
    if let Some(unique) = scope.get_mut() {
        unique.release();
    }
    put(scope);
}

/// Keeps a scope that has been released and has no handle.
#[inline]
pub(super) fn put(scope: Counted<ScopeState>) {
    let mut scope = Some(scope);
    let _ = LAST.try_with(|last| scope = last.replace(scope.take()));
    if let Some(former) = scope {
        put_older(former);
    }
}

#[inline(never)]
fn put_older(scope: Counted<ScopeState>) {
    // A scope that is not kept is dropped here, outside of the borrow.
    let mut scope = Some(scope);
    let _ = RECYCLED.try_with(|recycled| {
        let mut recycled = recycled.borrow_mut();
        if recycled.capacity() == 0 {
            recycled.reserve_exact(MAX_RECYCLED);
        }
        if recycled.len() < MAX_RECYCLED {
            recycled.extend(scope.take());
        }
    });
}
