//! Records and groups, recycled by the thread that drops their last reference.

use std::{ops::Deref, panic::Location, time::Duration};

use tokio::time::Instant;

use super::{
    record::{Origin, TaskGroup, TaskRecord},
    report::TaskKind,
};
use crate::{counted::Counted, housekeeping::Housekeeping, recycled::Recycled, sync::Arc};

thread_local! {
    static RECORDS: Recycled<Counted<TaskRecord>> = const { Recycled::new() };
    static GROUPS: Recycled<Arc<TaskGroup>> = const { Recycled::new() };
}

impl TaskGroup {
    /// A group without tasks, recycled or new.
    pub(crate) fn take(start: Instant, grace: Duration, housekeeping: Housekeeping) -> Arc<Self> {
        let mut group = Recycled::take(&GROUPS, || Arc::new(Self::unused(start)));
        let Some(unique) = Arc::get_mut(&mut group) else {
            unreachable!("a recycled group has no tasks");
        };
        unique.begin(start, grace, housekeeping);
        group
    }

    /// Keeps the group of a request whose scope is recycled for another one, unless something refers to it.
    pub(crate) fn recycle(mut group: Arc<Self>) {
        if let Some(unique) = Arc::get_mut(&mut group) {
            unique.reset();
            Recycled::put(&GROUPS, group);
        }
    }
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

    /// Adds the task to its request's group.
    pub(crate) fn join(&self, group: &Arc<TaskGroup>) {
        self.set_index(group.add(self.share()));
    }

    const fn get(&self) -> &Counted<TaskRecord> {
        match &self.0 {
            Some(record) => record,
            None => unreachable!(),
        }
    }

    /// A reference for a list.
    pub(crate) fn share(&self) -> Counted<TaskRecord> {
        self.get().clone()
    }
}

impl Deref for TaskRef {
    type Target = TaskRecord;

    fn deref(&self) -> &TaskRecord {
        self.get()
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        let Some(mut record) = self.0.take().and_then(Counted::into_last) else {
            return;
        };
        if let Some(unique) = record.get_mut() {
            unique.reset();
            Recycled::put(&RECORDS, record);
        }
    }
}
