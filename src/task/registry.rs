use tokio::time::Instant;

use super::{
    detached::DetachedCounters,
    record::{TaskId, TaskRecord},
    report::TaskReport,
};
use crate::{counted::Counted, slab::ShardedSlab};

/// The tasks of a layer's requests that are alive.
#[derive(Default)]
pub(crate) struct Tasks {
    /// Tasks that end with their request.
    pub(crate) bound: ShardedSlab<Counted<TaskRecord>>,
    pub(crate) detached: ShardedSlab<Counted<TaskRecord>>,
    pub(crate) names: DetachedCounters,
}

impl Tasks {
    /// Cancels the requests that have tasks, if a shutdown has begun.
    pub(crate) fn follow_shutdown(&self) {
        // Not under the lock: cancelling wakes tasks.
        for task in self.bound.filter_map(|task| Some(task.clone())) {
            task.follow_shutdown();
        }
    }

    /// Whether a task is one of these.
    pub(crate) fn contains(&self, task: TaskId) -> bool {
        let is_it = |record: &Counted<TaskRecord>| (record.id() == task).then_some(());
        !self.bound.filter_map(is_it).is_empty() || !self.detached.filter_map(is_it).is_empty()
    }

    /// Reports of the tasks, oldest first; of those whose request has ended, or of all but these.
    pub(crate) fn reports(&self, ended_only: bool, but: &[TaskId]) -> Vec<TaskReport> {
        let now = Instant::now();
        let report = |record: &Counted<TaskRecord>| {
            let wanted = (!ended_only || record.outlives()) && !but.contains(&record.id());
            wanted.then(|| record.report(now))
        };
        let mut reports = self.bound.filter_map(report);
        reports.extend(self.detached.filter_map(report));
        reports.sort_by_key(|report| std::cmp::Reverse(report.age));
        reports
    }
}
