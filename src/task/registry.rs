use tokio::time::Instant;

use super::{
    detached::{DetachedCounter, DetachedCounters, NameCount},
    record::TaskRecord,
    report::TaskReport,
};
use crate::{
    background::Background,
    slab::{Key, ShardedSlab},
    sync::Arc,
};

/// The tasks of a layer's requests that are alive.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Tasks that end with their request.
    bound: ShardedSlab<Arc<TaskRecord>>,
    detached: ShardedSlab<Arc<TaskRecord>>,
    counters: DetachedCounters,
    pub(super) sweeper: Background,
}

impl Tasks {
    pub(crate) fn insert_bound(&self, record: &Arc<TaskRecord>) -> Key {
        self.bound.insert(Arc::clone(record))
    }

    pub(crate) fn remove_bound(&self, key: Key) {
        drop(self.bound.remove(key));
    }

    /// Counts a detached task that starts under `name`.
    pub(crate) fn counter(&self, name: &'static str) -> Arc<DetachedCounter> {
        self.counters.started(name)
    }

    pub(crate) fn insert_detached(&self, record: &Arc<TaskRecord>) -> Key {
        self.detached.insert(Arc::clone(record))
    }

    pub(crate) fn remove_detached(&self, key: Key) {
        let Some(record) = self.detached.remove(key) else {
            return;
        };
        if let Some(counter) = record.counter() {
            counter.ended(record.bytes());
        }
    }

    /// The number of tasks that end with their requests.
    pub(crate) fn bound(&self) -> usize {
        self.bound.len()
    }

    /// The number of detached tasks.
    pub(crate) fn detached(&self) -> usize {
        self.detached.len()
    }

    pub(crate) fn name_counts(&self) -> Vec<NameCount> {
        self.counters.counts()
    }

    /// Reports of the tasks, oldest first; of all, or of those whose request has ended.
    pub(crate) fn reports(&self, ended_only: bool) -> Vec<TaskReport> {
        let now = Instant::now();
        let report = |record: &Arc<TaskRecord>| {
            (!ended_only || record.outlives()).then(|| record.report(now))
        };
        let mut reports = self.bound.filter_map(report);
        reports.extend(self.detached.filter_map(report));
        reports.sort_by_key(|report| std::cmp::Reverse(report.age));
        reports
    }

    /// The tasks whose grace period is over and that still keep their scope open, and when the next
    /// one is.
    pub(super) fn overdue(&self, now: Instant) -> (Vec<Arc<TaskRecord>>, Option<Instant>) {
        let mut next = None::<Instant>;
        let overdue = self.bound.filter_map(|record| {
            if record.is_released() {
                return None;
            }
            let due = record.group.due()?;
            if due <= now {
                return Some(Arc::clone(record));
            }
            next = Some(next.map_or(due, |next| next.min(due)));
            None
        });
        (overdue, next)
    }
}
