//! What requests tell the recorder beside their polls.

use super::{
    event::{Kind, Origin},
    incident::{self, IncidentKind, keeps_deadlines, most_bytes},
    local::event_of,
};
use crate::names::{LabelWord, TaskName};

/// A request was cancelled, with an outcome of this name.
#[cold]
pub(crate) fn cancelled(origin: Origin, outcome: &'static str, is_deadline: bool) {
    let origin = origin.in_task(LabelWord::of_task(TaskName::named(outcome)));
    if let Some((thread, event)) = event_of(Kind::Cancelled, origin, 0) {
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
pub(crate) fn large(origin: Origin, bytes: u64) {
    if let Some((thread, event)) = event_of(Kind::Closed, origin, bytes) {
        incident::request(IncidentKind::Bytes, &thread, &event, Some(bytes));
    }
}
