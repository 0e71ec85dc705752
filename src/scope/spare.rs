//! Scopes to be used again, kept by the thread that let go of them.
//!
//! A spare holds nothing of the layer it belonged to, so all layers share them, and a layer can end
//! while they wait.

use std::cell::RefCell;

use super::inner::Inner;
use crate::sync::Arc;

/// Most spares a thread keeps.
const MAX_SPARES: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Arc<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// A scope that no handle refers to, used before or new.
pub(super) fn take() -> Arc<Inner> {
    SPARES
        .try_with(|spares| spares.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| Arc::new(Inner::new()))
}

/// Keeps a scope that no handle refers to any more.
pub(super) fn put(spare: Arc<Inner>) {
    // A spare that is not kept is dropped here, outside of the borrow.
    let mut spare = Some(spare);
    let _ = SPARES.try_with(|spares| {
        let mut spares = spares.borrow_mut();
        if spares.capacity() == 0 {
            spares.reserve_exact(MAX_SPARES);
        }
        if spares.len() < MAX_SPARES {
            spares.extend(spare.take());
        }
    });
}
