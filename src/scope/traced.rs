//! What the flight recorder is told of a request.

use super::state::{NEVER, ScopeState};
use crate::{
    account::Usage,
    cancel::{CancelReason, Outcome},
    sync::Ordering,
    trace::{self, Kind, Name, Subject},
};

impl ScopeState {
    /// The request, as far as it is known now.
    pub(super) fn traced(&self) -> Subject<'_> {
        // Relaxed: the body is polled after the head by the same owner.
        let has_head = self.head.load(Ordering::Relaxed) != NEVER;
        Subject {
            kind: if has_head { Kind::Body } else { Kind::Request },
            request: self.id(),
            route: Name::Label(self.route().label.text()),
            task: Name::None,
        }
    }

    /// The request was cancelled, or has ended.
    #[inline]
    pub(super) fn trace_cancelled(&self, reason: CancelReason) {
        if trace::is_on() && reason != Outcome::Completed {
            let subject = Subject {
                kind: Kind::Cancelled,
                task: Name::Static(reason.outcome().as_str()),
                ..self.traced()
            };
            trace::cancelled(&subject, reason == Outcome::DeadlineExceeded);
        }
    }

    /// The request has closed.
    #[inline]
    pub(super) fn trace_closed(&self, usage: Option<&Usage>) {
        if trace::is_on() {
            let bytes = usage.map_or(0, |usage| usage.bytes_allocated);
            if trace::is_large(bytes) {
                let kind = Kind::Closed;
                trace::large(
                    &Subject {
                        kind,
                        ..self.traced()
                    },
                    bytes,
                );
            }
        }
    }
}
