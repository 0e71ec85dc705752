use std::{fmt, panic::Location};

use super::{
    averages::Averages,
    coverage::Coverage,
    extremes::Extremes,
    observers::{Observer, Observers},
    overruns::Overruns,
    stats::Stats,
    warn::{warn_lost_scope, warn_over_limit, warn_overrun},
};
use crate::{
    housekeeping::Housekeeping,
    journal::{Journal, Journals},
    route::{RouteKey, RouteLabel},
    scope::{Closed, RouteFigures, ScopeSink, TaskReport},
    sync::Arc,
};
#[cfg(feature = "tracing")]
use {super::request_log::RequestLog, crate::sync::Ordering};

/// Records the events of scopes in the statistics, and passes closed ones on to the observers.
pub(crate) struct Recorder {
    pub(super) stats: Stats,
    pub(super) overruns: Overruns,
    pub(super) coverage: Coverage,
    pub(super) observers: Arc<Observers>,
    /// If the layer lists requests.
    pub(super) extremes: Option<Extremes>,
    /// If the layer shows the figures of routes.
    averages: Option<Averages>,
    #[cfg(feature = "tracing")]
    log: Option<RequestLog>,
}

impl Recorder {
    pub(crate) fn new(observers: Vec<Observer>, housekeeping: &Housekeeping) -> Self {
        Self {
            extremes: None,
            averages: None,
            #[cfg(feature = "tracing")]
            log: None,
            stats: Stats::new(),
            overruns: Overruns::default(),
            coverage: Coverage::new(),
            observers: Observers::new(observers, housekeeping),
        }
    }
}

impl Recorder {
    /// Remembers the largest and the slowest requests of so many routes.
    pub(crate) fn remember_extremes(&mut self, routes: usize) {
        self.extremes = Some(Extremes::new(routes));
    }

    /// Records an event for each request.
    #[cfg(feature = "tracing")]
    pub(crate) fn log_requests(&mut self, log: RequestLog) {
        self.log = Some(log);
    }

    /// Whether each closed request is of use beyond the statistics.
    fn wants_all(&self) -> bool {
        #[cfg(feature = "tracing")]
        if self.log.is_some() {
            return true;
        }
        self.extremes.is_some() || !self.observers.is_empty()
    }

    /// Shows the figures of so many routes to requests.
    pub(crate) fn show_averages(&mut self, routes: usize) {
        self.averages = Some(Averages::new(routes));
    }
}

impl ScopeSink for Recorder {
    fn journals(&self) -> &Arc<Journals> {
        self.stats.journals()
    }

    fn empty(&self, journal: &Journal, is_full: bool) {
        self.stats.empty(journal, is_full);
    }

    fn route_figures(&self, key: RouteKey) -> Option<RouteFigures> {
        self.averages.as_ref()?.get(key, &self.stats)
    }

    fn overran(&self, task: &TaskReport, given_up: bool) {
        if self.overruns.add(task, given_up) {
            warn_overrun(task, given_up);
        }
    }

    fn over_limit(&self, key: RouteKey, label: &RouteLabel, used: u64, limit: u64) {
        if self.stats.over_limit(key) {
            warn_over_limit(key.method.as_str(), label, used, limit);
        }
    }

    fn lost(&self, location: &'static Location<'static>) {
        warn_lost_scope(location);
    }

    fn closed(&self, closed: &Closed<'_>) -> bool {
        let learns = self.coverage.closed(closed);
        #[cfg(feature = "tracing")]
        if self.log.as_ref().is_some_and(|log| log.record(closed)) {
            // Relaxed: a counter.
            self.observers.panics.fetch_add(1, Ordering::Relaxed);
        }
        let extremes = self.extremes.as_ref();
        let extremes = extremes.filter(|extremes| extremes.wants(closed));
        if !self.observers.is_empty() || extremes.is_some() {
            let report = closed.report();
            if let Some(extremes) = extremes {
                extremes.add(closed, &report);
            }
            if !self.observers.is_empty() {
                self.observers.push(report);
            }
        }
        learns || self.wants_all()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("observers", &self.observers)
            .finish_non_exhaustive()
    }
}
