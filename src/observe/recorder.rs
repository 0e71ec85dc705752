use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{observer::Observer, overruns::Overruns, stats::Stats, warn::warn_overrun};
use crate::{
    scope::{Closed, ScopeSink, TaskReport},
    sync::{Arc, AtomicU64, Ordering},
};

/// Writes what scopes tell into the statistics, and passes it on to the observers.
pub(crate) struct Recorder {
    pub(super) stats: Stats,
    pub(super) overruns: Overruns,
    pub(super) observer_panics: AtomicU64,
    observers: Vec<Arc<dyn Observer>>,
}

impl Recorder {
    pub(crate) fn new(routes: usize, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self {
            stats: Stats::new(routes),
            overruns: Overruns::default(),
            observer_panics: AtomicU64::new(0),
            observers,
        }
    }
}

impl ScopeSink for Recorder {
    fn opened(&self, route: usize) {
        self.stats.opened(route);
    }

    fn relabelled(&self, from: usize, to: usize) {
        self.stats.relabelled(from, to);
    }

    fn overran(&self, task: &TaskReport) {
        if self.overruns.add(task) {
            warn_overrun(task);
        }
    }

    fn closed(&self, closed: &Closed<'_>) {
        self.stats.closed(closed);
        if self.observers.is_empty() {
            return;
        }
        let report = &closed.report();
        for observer in &self.observers {
            // Unwind safe: the report is only read, and an observer that breaks its own state is
            // still only told of the next request.
            let told = catch_unwind(AssertUnwindSafe(|| observer.on_close(report)));
            if let Err(payload) = told {
                // A payload's own drop may panic, too. What that one throws is lost rather than
                // dropped in turn.
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                let _ = dropped.map_err(std::mem::forget);
                // Relaxed: a figure.
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
