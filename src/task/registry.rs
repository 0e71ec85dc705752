use std::{array, cmp::Ordering, collections::BTreeSet, sync::OnceLock};

use tokio::time::Instant;

use super::{
    detached::DetachedCounters,
    entered::TaskId,
    record::{TaskGroup, TaskRecord},
    report::TaskReport,
};
use crate::{
    account::aside,
    counted::Counted,
    slab::ShardedSlab,
    sync::{Mutex, lock},
};

/// The groups that exist, of all layers: those of open requests with tasks, and those that recycled scopes keep.
///
/// So tasks need no list of their own, and a request that finds a group in its scope lists nothing.
static GROUPS: OnceLock<Groups> = OnceLock::new();

/// Groups by their address, in parts with a lock each. A set of nodes, so that it is as large as what is in it.
struct Groups([Mutex<BTreeSet<Listed>>; PARTS]);

/// A group, ordered by its address.
struct Listed(Counted<TaskGroup>);

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.addr().cmp(&other.0.addr())
    }
}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }
}

impl Eq for Listed {}

const PARTS: usize = 16;

impl Groups {
    fn part(&self, group: &Counted<TaskGroup>) -> &Mutex<BTreeSet<Listed>> {
        // Groups have 48 bytes, so there are few in 256.
        &self.0[(group.addr() >> 8) % PARTS]
    }

    /// Collects what `f` returns for each group. `f` runs under a lock.
    fn filter_map<R>(&self, mut f: impl FnMut(&Counted<TaskGroup>) -> Option<R>) -> Vec<R> {
        let mut found = Vec::new();
        for part in &self.0 {
            let part = lock(part);
            found.extend(part.iter().filter_map(|Listed(group)| f(group)));
        }
        found
    }
}

fn groups() -> &'static Groups {
    GROUPS.get_or_init(|| Groups(array::from_fn(|_| Mutex::default())))
}

impl TaskGroup {
    /// Makes a group that is in the list.
    #[cold]
    pub(crate) fn new_listed() -> Counted<Self> {
        aside(|| {
            let group = Counted::new(Self::unused());
            lock(groups().part(&group)).insert(Listed(group.clone()));
            group
        })
    }

    /// Whether nothing refers to the group besides its scope and the list, so that a later request can use it.
    pub(crate) fn is_kept(this: &Counted<Self>) -> bool {
        this.has_references(2)
    }

    /// Removes the group of a scope from the list.
    #[cold]
    pub(crate) fn forget(this: &Counted<Self>) {
        let listed = Listed(this.clone());
        let removed = aside(|| lock(groups().part(this)).take(&listed));
        drop(removed);
    }
}

/// The tasks of a layer's requests that are alive.
#[derive(Default)]
pub(crate) struct Tasks {
    pub(crate) detached: ShardedSlab<Counted<TaskRecord>>,
    pub(crate) names: DetachedCounters,
}

/// The tasks that end with their request, by the layer's address. Each walks over all groups, so none is for the
/// way of a request.
pub(crate) struct Bound(pub(crate) usize);

impl Bound {
    /// The number of tasks that are alive.
    pub(crate) fn len(&self) -> usize {
        let counts = groups().filter_map(|group| Some(group.count(self.0)));
        counts.into_iter().sum()
    }

    /// The number of requests that have made tokens.
    pub(crate) fn with_tokens(&self) -> usize {
        let found = groups().filter_map(|group| group.has_tokens(self.0).then_some(()));
        found.len()
    }

    fn all(&self) -> impl Iterator<Item = Counted<TaskRecord>> {
        let tasks = groups().filter_map(|group| Some(group.tasks(self.0)));
        tasks.into_iter().flatten()
    }

    /// Cancels the requests that have tasks, and wakes what waits for the cancellation of others, when a
    /// shutdown has begun.
    pub(crate) fn follow_shutdown(&self) {
        // Not under the lock: cancelling wakes tasks.
        for task in self.all() {
            task.follow_shutdown();
        }
        let found = groups().filter_map(|group| TaskGroup::following_shutdown(group, self.0));
        for group in found {
            group.follow_shutdown(self.0);
        }
    }
}

impl Tasks {
    /// Whether a task is one of these, or of `bound`.
    pub(crate) fn contains(&self, bound: &Bound, task: TaskId) -> bool {
        let is_it = |record: &Counted<TaskRecord>| (record.id() == task).then_some(());
        bound.all().any(|record| is_it(&record).is_some())
            || !self.detached.filter_map(is_it).is_empty()
    }

    /// Reports of these tasks and of those of `bound`, oldest first; of those whose request has ended, or of all
    /// but these.
    pub(crate) fn reports(
        &self,
        bound: &Bound,
        ended_only: bool,
        but: &[TaskId],
    ) -> Vec<TaskReport> {
        let now = Instant::now();
        let report = |record: &Counted<TaskRecord>| {
            let wanted = (!ended_only || record.outlives()) && !but.contains(&record.id());
            wanted.then(|| record.report(now))
        };
        let mut reports: Vec<_> = bound.all().filter_map(|record| report(&record)).collect();
        reports.extend(self.detached.filter_map(report));
        reports.sort_by_key(|report| std::cmp::Reverse(report.age));
        reports
    }
}
