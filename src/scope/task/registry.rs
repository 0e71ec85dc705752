use std::panic::Location;

use tokio::time::Instant;

use super::{
    names::{NameCount, Names},
    record::TaskRecord,
    report::{TaskKind, TaskReport},
    sweeper,
};
use crate::{
    scope::{
        RequestScope, RouteRegistry,
        config::{Gauges, ScopeConfig},
        inner::Inner,
        shards::{Key, Shards},
    },
    sync::{Arc, AtomicBool, Ordering},
};

/// The tasks of a layer's requests.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Tasks that end with their request.
    bound: Shards<Arc<TaskRecord>>,
    detached: Shards<Arc<TaskRecord>>,
    names: Names,
    /// The sweeper is there.
    pub(super) sweeping: AtomicBool,
}

impl Tasks {
    /// Tasks alive that end with their requests.
    pub(crate) fn bound(&self) -> usize {
        self.bound.len()
    }

    /// Detached tasks alive.
    pub(crate) fn detached(&self) -> usize {
        self.detached.len()
    }

    pub(crate) fn name_counts(&self) -> Vec<NameCount> {
        self.names.counts()
    }

    /// The tasks alive, oldest first; only those whose request has ended, or all.
    pub(crate) fn reports(&self, routes: &RouteRegistry, ended_only: bool) -> Vec<TaskReport> {
        let now = Instant::now();
        let report = |record: &Arc<TaskRecord>| {
            (!ended_only || record.group.ended().is_some()).then(|| record.report(routes, now))
        };
        let mut reports = self.bound.filter_map(report);
        reports.extend(self.detached.filter_map(report));
        reports.sort_by_key(|report| std::cmp::Reverse(report.age));
        reports
    }

    /// Sees to it that tasks of ended requests are looked at when their grace is over. To be called
    /// after the end was noted in their group.
    ///
    /// The sweeper takes its flag down and then looks for ends once more; here the end was noted
    /// before the flag is read, all in one order (`SeqCst`). So the sweeper sees the end, or it is
    /// started anew.
    pub(in crate::scope) fn supervise(gauges: &Arc<Gauges>, runtime: &tokio::runtime::Handle) {
        let sweeping = &gauges.tasks.sweeping;
        if !sweeping.load(Ordering::SeqCst) && !sweeping.swap(true, Ordering::SeqCst) {
            sweeper::start(Arc::clone(gauges), runtime);
        }
    }

    /// The tasks whose grace is over by `now` and that nobody has dealt with, and when to look next.
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

/// Keeps a task in the list for as long as it exists, and its scope open until it is gone or given
/// up.
pub(super) struct Ticket {
    /// `None` only in the middle of `drop`, or while the task is polled.
    pub(super) scope: Option<RequestScope>,
    /// `None` only in the middle of `drop`.
    listed: Option<Listed>,
}

struct Listed {
    record: Arc<TaskRecord>,
    config: Arc<ScopeConfig>,
    key: Key,
}

impl Ticket {
    pub(super) fn new(
        scope: &RequestScope,
        kind: TaskKind,
        location: &'static Location<'static>,
    ) -> Self {
        let inner = scope.inner();
        Self {
            scope: Some(scope.clone()),
            listed: inner.config().map(|config| {
                let group = inner.group();
                // The group is there: from here on whoever cancels or ends the request sees it.
                if inner.signal.is_cancelled_now() {
                    group.request_cancelled(Instant::now());
                }
                group.task_started();
                let ended = inner.lifecycle.task_started();
                let record = Arc::new(TaskRecord::new(
                    kind,
                    location,
                    Arc::clone(group),
                    Some(scope.clone()),
                    None,
                ));
                let listed = Listed {
                    key: config.gauges.tasks.bound.insert(Arc::clone(&record)),
                    config: Arc::clone(config),
                    record,
                };
                if ended {
                    inner.note_end();
                }
                listed
            }),
        }
    }

    /// The scope's place, and the record, for a poll.
    pub(super) fn parts(&mut self) -> (&mut Option<RequestScope>, Option<&TaskRecord>) {
        let record = self.listed.as_ref().map(|listed| &*listed.record);
        (&mut self.scope, record)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.scope = None;
        let Some(Listed {
            record,
            config,
            key,
        }) = self.listed.take()
        else {
            return;
        };
        let cancelled = record.scope().is_some_and(RequestScope::is_cancelled);
        if cancelled {
            record.group.task_ended(Instant::now());
        }
        if let Some(after) = record.group.task_over() {
            config.sink.tasks_over(record.group.route(), after);
        }
        record.release();
        // The last of these may be the scope's last handle.
        let listed = config.gauges.tasks.bound.remove(key);
        drop((listed, record));
        config.gauges.shutdown.changed();
    }
}

/// Keeps a detached task in the list for as long as it exists.
pub(super) struct DetachedTicket {
    pub(super) record: Arc<TaskRecord>,
    gauges: Arc<Gauges>,
    key: Key,
}

impl DetachedTicket {
    pub(super) fn new(
        inner: &Inner,
        name: &'static str,
        location: &'static Location<'static>,
    ) -> Option<Self> {
        let gauges = &inner.config()?.gauges;
        let group = inner.group();
        if inner.lifecycle.is_ended_now() {
            inner.note_end();
        }
        let record = Arc::new(TaskRecord::new(
            TaskKind::Detached,
            location,
            Arc::clone(group),
            None,
            Some(gauges.tasks.names.started(name)),
        ));
        let key = gauges.tasks.detached.insert(Arc::clone(&record));
        Some(Self {
            record,
            gauges: Arc::clone(gauges),
            key,
        })
    }
}

impl Drop for DetachedTicket {
    fn drop(&mut self) {
        if let Some(name) = &self.record.name {
            name.ended(self.record.bytes());
        }
        drop(self.gauges.tasks.detached.remove(self.key));
        self.gauges.shutdown.changed();
    }
}
