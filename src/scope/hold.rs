use std::fmt;

use super::handle::RequestScope;
use crate::cancel::CancelReason;

/// Guard of [`RequestScope::hold`]: keeps the scope of an upgraded connection open.
#[must_use = "the scope is held until the guard is dropped"]
pub struct ScopeHold {
    scope: RequestScope,
    holds: bool,
}

impl ScopeHold {
    pub(super) fn new(scope: &RequestScope) -> Self {
        Self {
            scope: scope.clone(),
            holds: scope.inner().lifecycle.hold(),
        }
    }

    /// The scope that is held.
    #[must_use]
    pub const fn scope(&self) -> &RequestScope {
        &self.scope
    }
}

impl Drop for ScopeHold {
    fn drop(&mut self) {
        if self.holds {
            let inner = self.scope.inner();
            inner.step(inner.lifecycle.release_hold(), CancelReason::Completed);
        }
    }
}

impl fmt::Debug for ScopeHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeHold")
            .field("scope", &self.scope)
            .field("holds", &self.holds)
            .finish()
    }
}
