//! Recycled scopes, kept by the thread that dropped their last handle.
//!
//! A recycled scope refers to no layer, so all layers share them, and a layer can end while they wait.

use std::cell::Cell;

use super::{current, state::ScopeState};
use crate::{counted::Counted, recycled::Recycled};

thread_local! {
    /// The last one. It serves most requests, since their scopes close before the next one is opened.
    static LAST: Cell<Option<Counted<ScopeState>>> = const { Cell::new(None) };
    static OLDER: Recycled<Counted<ScopeState>> = const { Recycled::new() };
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
    Recycled::take(&OLDER, || Counted::new(ScopeState::new()))
}

/// Drops a handle, and keeps the scope if it was the last one.
#[inline]
pub(super) fn drop_handle(handle: Counted<ScopeState>) {
    let left = current::drop_beside(handle);
    if let Some(last) = left.and_then(Counted::into_last) {
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
    Recycled::put(&OLDER, scope);
}
