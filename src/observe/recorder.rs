use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{overruns::Overruns, stats::Stats, warn::warn_overrun};
use crate::{
    route::RouteKey,
    scope::{Closed, ScopeReport, ScopeSink, TaskReport},
    sync::{Arc, AtomicU64, Ordering},
};

/// Is passed a report of each request.
pub(crate) type Observer = Arc<dyn Fn(&ScopeReport) + Send + Sync>;

/// Records the events of scopes in the statistics, and passes closed ones on to the observers.
pub(crate) struct Recorder {
    pub(super) stats: Stats,
    pub(super) overruns: Overruns,
    pub(super) observer_panics: AtomicU64,
    observers: Vec<Observer>,
}

impl Recorder {
    pub(crate) fn new(routes: usize, observers: Vec<Observer>) -> Self {
        Self {
            stats: Stats::new(routes),
            overruns: Overruns::default(),
            observer_panics: AtomicU64::new(0),
            observers,
        }
    }
}

impl ScopeSink for Recorder {
    fn opened(&self, key: RouteKey) {
        self.stats.open(key, 1);
    }

    fn relabelled(&self, from: RouteKey, to: usize) {
        self.stats.relabelled(from, to);
    }

    fn overran(&self, task: &TaskReport, given_up: bool) {
        if self.overruns.add(task, given_up) {
            warn_overrun(task, given_up);
        }
    }

    fn closed(&self, closed: &Closed<'_>) {
        self.stats.closed(closed);
        if self.observers.is_empty() {
            return;
        }
        let report = &closed.report();
        for observer in &self.observers {
            // Unwind safe: the report is only read, and an observer in a broken state only receives
            // the next report.
            let result = catch_unwind(AssertUnwindSafe(|| observer(report)));
            if let Err(payload) = result {
                // Dropping the payload may panic, too. That second payload is leaked instead of
                // dropped.
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                let _ = dropped.map_err(std::mem::forget);
                // Relaxed: a counter.
                self.observer_panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("observers", &self.observers.len())
            .finish_non_exhaustive()
    }
}
