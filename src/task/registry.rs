use tokio::{runtime::Handle, time::Instant};

use super::{
    detached::{DetachedCounter, DetachedCounters, NameCount},
    record::TaskRecord,
    report::TaskReport,
    sweeper,
};
use crate::{
    slab::{Key, ShardedSlab},
    sync::{Arc, AtomicBool, Ordering},
};

/// The tasks of a layer's requests that are alive.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Tasks that end with their request.
    bound: ShardedSlab<Arc<TaskRecord>>,
    detached: ShardedSlab<Arc<TaskRecord>>,
    counters: DetachedCounters,
    /// Whether the sweeper runs.
    pub(super) sweeping: AtomicBool,
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

    /// Starts the sweeper if it does not run. Call it after the end was recorded in the group.
    ///
    /// The sweeper clears its flag and then looks for ended requests once more; here the end was
    /// recorded before the flag is read, all in one order (`SeqCst`). So the sweeper sees the end, or
    /// it is started again.
    pub(crate) fn supervise(self: &Arc<Self>, runtime: &Handle) {
        if !self.sweeping.load(Ordering::SeqCst) && !self.sweeping.swap(true, Ordering::SeqCst) {
            sweeper::start(Arc::clone(self), runtime);
        }
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
