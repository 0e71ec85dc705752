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
    /// Takes back a reference of a list that has removed the record. Returns whether the scope waits for the task,
    /// once.
    #[inline]
    pub(crate) fn unlisted(&mut self, listed: Option<Counted<TaskRecord>>) -> bool {
        let Some(record) = &mut self.0 else {
            unreachable!();
        };
        drop(listed.and_then(|listed| listed.drop_beside(record)));
        match record.get_mut() {
            Some(unique) => unique.is_unreleased(),
            None => record.note_release(),
        }
    }

    /// Lets go of the record. Returns what the task belonged to, unless something else refers to the record.
    #[inline]
    pub(crate) fn end(&mut self) -> Option<Origin> {
        let mut record = self.0.take().and_then(Counted::into_last)?;
        let origin = record.get_mut()?.reset();
        Recycled::put(&RECORDS, record);
        origin
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        drop(self.end());
    }
}
