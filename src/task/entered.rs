//! The poll of a task: what it enters, and how code that is called in it finds the task.

use std::{cell::Cell, num::NonZeroUsize, ptr::NonNull};

use super::record::TaskRecord;
use crate::account::{Entry, Writer};

/// Which task it is, among those that exist: the address of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskId(NonZeroUsize);

thread_local! {
    /// The task that the calling thread polls. Without a destructor, so it can be used by a thread that ends.
    static CURRENT: Cell<Option<TaskId>> = const { Cell::new(None) };
}

impl TaskId {
    /// The task whose poll, or drop, calls this.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.get()
    }
}

impl TaskRecord {
    pub(super) fn id(&self) -> TaskId {
        TaskId(NonNull::from(self).addr())
    }

    /// Enters the task's account until the guard is dropped.
    pub(crate) fn enter(&self) -> EnteredTask<'_> {
        #[cfg(feature = "trace")]
        let slice = crate::trace::Slice::begin(|| Some((self.traced_kind(), self.traced())));
        self.count_poll();
        EnteredTask {
            record: self,
            // Exclusive: a task is in one poll at a time, and each happens after the one before.
            entry: self.account.begin(Writer::Exclusive),
            outer: CURRENT.replace(Some(self.id())),
            #[cfg(feature = "trace")]
            slice,
        }
    }
}

/// Guard of [`TaskRecord::enter`].
pub(crate) struct EnteredTask<'a> {
    pub(crate) record: &'a TaskRecord,
    entry: Entry,
    /// The task that polls this one.
    outer: Option<TaskId>,
    #[cfg(feature = "trace")]
    slice: crate::trace::Slice,
}

impl Drop for EnteredTask<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
        self.record.account.leave(self.entry);
        self.record.count_poll();
        #[cfg(feature = "trace")]
        self.slice.end(|| Some(self.record.traced()));
    }
}
