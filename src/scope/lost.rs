//! Tasks that use a request's scope and do not belong to the request.

use std::panic::Location;

use super::{current, handle::RequestScope};
use crate::task::TaskId;

impl RequestScope {
    /// Tells the layer of a task that uses the scope after its end, from outside of it.
    #[inline]
    pub(super) fn used_at(&self, location: &'static Location<'static>) {
        if self.state().lifecycle.is_ended() {
            self.used_after_end(location);
        }
    }

    #[cold]
    #[inline(never)]
    fn used_after_end(&self, location: &'static Location<'static>) {
        // In a task of tokio that neither this crate runs nor a hold covers. Elsewhere, as on a thread of
        // the program's own, nothing tells that the code was meant to belong to the request.
        let known =
            current::is_some() || TaskId::current().is_some() || self.state().lifecycle.is_held();
        if !known && tokio::task::try_id().is_some() {
            self.state().layer().sink.lost(location);
        }
    }
}
