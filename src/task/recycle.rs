//! Records, recycled by the thread that drops their last reference.

use std::{ops::Deref, panic::Location};

use super::{
    record::{Origin, TaskRecord},
    report::TaskKind,
};
use crate::{counted::Counted, recycled::Recycled};

thread_local! {
    static RECORDS: Recycled<Counted<TaskRecord>> = const { Recycled::new() };
}

/// A task's own reference to its record. It keeps the record for another task when it is dropped, unless
/// something else refers to it.
pub(crate) struct TaskRef(Option<Counted<TaskRecord>>);

impl TaskRef {
    /// The record of a new task, recycled or new.
    pub(crate) fn new(
        kind: TaskKind,
        location: &'static Location<'static>,
        origin: Origin,
    ) -> Self {
        let mut record = Recycled::take(&RECORDS, || Counted::new(TaskRecord::unused()));
        let Some(unique) = record.get_mut() else {
            unreachable!("a recycled record has no task");
        };
        unique.begin(kind, location, origin);
        Self(Some(record))
    }

    /// A reference for a list.
    pub(crate) fn share(&mut self) -> Counted<TaskRecord> {
        match &mut self.0 {
            Some(record) => record.clone_mut(),
            None => unreachable!(),
        }
    }
}

impl Deref for TaskRef {
    type Target = TaskRecord;

    fn deref(&self) -> &TaskRecord {
        match &self.0 {
            Some(record) => record,
            None => unreachable!(),
        }
    }
}

impl TaskRef {
    /// Lets go of the record, and of the request.
    #[inline]
    pub(crate) fn end(&mut self) {
        let Some(mut record) = self.0.take().and_then(Counted::into_last) else {
            return;
        };
        if let Some(unique) = record.get_mut() {
            unique.reset();
            Recycled::put(&RECORDS, record);
        }
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        self.end();
    }
}
