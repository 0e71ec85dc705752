//! Recycled scopes, kept by the thread that dropped their last handle.
//!
//! A recycled scope refers to no layer, so all layers share them, and a layer can end while they wait.

use std::cell::RefCell;

use super::state::ScopeState;
use crate::sync::Arc;

/// Maximum number of recycled scopes that a thread keeps.
const MAX_RECYCLED: usize = 64;

thread_local! {
    static RECYCLED: RefCell<Vec<Arc<ScopeState>>> = const { RefCell::new(Vec::new()) };
}

/// Returns a scope without handles, recycled or new.
pub(super) fn take() -> Arc<ScopeState> {
    RECYCLED
        .try_with(|recycled| recycled.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| Arc::new(ScopeState::new()))
}

/// Keeps a scope whose last handle is gone.
pub(super) fn put(scope: Arc<ScopeState>) {
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
