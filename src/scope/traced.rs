//! What the flight recorder is told of a request.

use super::state::ScopeState;
use crate::{
    account::Totals,
    cancel::{CancelReason, Outcome},
    trace::{self, Kind, Origin},
};

impl ScopeState {
    /// The request, as far as it is known now.
    #[inline]
    pub(super) fn traced(&self) -> Origin {
        Origin::new(self.id(), self.account.labels())
    }

    /// What of it is polled. The body is polled after the head by the same owner.
    #[inline]
    pub(super) fn traced_poll(&self) -> (Kind, Origin) {
        let kind = if self.has_head() {
            Kind::Body
        } else {
            Kind::Request
        };
        (kind, self.traced())
    }

    /// The request was cancelled, or has ended.
    #[inline]
    pub(super) fn trace_cancelled(&self, reason: CancelReason) {
        if trace::is_on() && reason != Outcome::Completed {
            let is_deadline = reason == Outcome::DeadlineExceeded;
            trace::cancelled(self.traced(), reason.outcome().as_str(), is_deadline);
        }
    }

    /// The request has closed.
    #[inline]
    pub(super) fn trace_closed(&self, heap: Option<&Totals>) {
        if trace::is_on() {
            let bytes = heap.map_or(0, |heap| heap.bytes_allocated);
            if trace::is_large(bytes) {
                trace::large(self.traced(), bytes);
            }
        }
    }
}
