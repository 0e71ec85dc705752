//! What requests tell the recorder beside their polls.

use super::{
    event::Subject,
    incident::{self, IncidentKind, keeps_deadlines, most_bytes},
    local::event_of,
};

/// A request was cancelled.
#[cold]
pub(crate) fn cancelled(subject: &Subject<'_>, is_deadline: bool) {
    if let Some((thread, event)) = event_of(subject, 0) {
        if is_deadline && keeps_deadlines() {
            incident::request(IncidentKind::Deadline, &thread, &event, None);
        }
    }
}

/// Whether a request that has allocated so much is one to keep.
#[inline]
pub(crate) fn is_large(bytes: u64) -> bool {
    bytes >= most_bytes()
}

/// A request that is large has closed.
#[cold]
pub(crate) fn large(subject: &Subject<'_>, bytes: u64) {
    if let Some((thread, event)) = event_of(subject, bytes) {
        incident::request(IncidentKind::Bytes, &thread, &event, Some(bytes));
    }
}
