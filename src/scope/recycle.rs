//! Recycled scopes, kept by the thread that dropped their last handle.
//!
//! A recycled scope refers to no layer, so all layers share them, and a layer can end while they wait.

use super::{current, state::ScopeState};
use crate::{counted::Counted, recycled::Recycled};

thread_local! {
    static SCOPES: Recycled<Counted<ScopeState>> = const { Recycled::new() };
}

/// Returns a scope without handles, recycled or new.
#[inline]
pub(super) fn take() -> Counted<ScopeState> {
    Recycled::take(&SCOPES, || Counted::new(ScopeState::new()))
}

/// Drops a handle, and keeps the scope if it was the last one.
#[inline]
pub(super) fn drop_handle(handle: Counted<ScopeState>) {
    let left = current::drop_beside(handle);
    if let Some(last) = left.and_then(Counted::into_last) {
        release(last);
    }
}

/// Drops two handles of one scope, and keeps the scope if they were the last ones.
#[inline]
pub(super) fn drop_handles<T: ?Sized>(handle: Counted<ScopeState>, other: Counted<T>) {
    if let Some(last) = handle.into_last_of_two(other) {
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
    Recycled::put(&SCOPES, scope);
}
