use std::{fmt, panic::Location, time::Duration};

use super::{open_list::OpenList, report::Closed, shutdown::Shutdown};
use crate::{
    account::Leftovers,
    housekeeping::Housekeeping,
    journal::{Journal, Journals},
    limit::LayerLimit,
    pool::ArenaPool,
    route::{RouteKey, RouteLabel, RouteRegistry},
    sync::{Arc, AtomicBool, AtomicU64},
    task::{Bound, TaskReport, Tasks},
};

/// Receives the events of scopes. Called from `call` and from `Drop`, so it must not panic.
pub(crate) trait ScopeSink: Send + Sync {
    /// Where threads write which scopes were opened and closed.
    fn journals(&self) -> &Arc<Journals>;

    /// Empties the calling thread's journal. Unless it `is_full`, it need not be emptied now.
    fn empty(&self, journal: &Journal, is_full: bool);

    /// A scope has closed. Returns whether further ones are to be reported here.
    fn closed(&self, closed: &Closed<'_>) -> bool;

    /// What requests of this route and method have allocated, at most a second ago.
    fn route_figures(&self, key: RouteKey) -> Option<RouteFigures>;

    /// A task still ran when its grace period was over. It was given up, or else aborted.
    fn overran(&self, task: &TaskReport, given_up: bool);

    /// An open scope of this route and method held `used` bytes, more than its limit, in a poll that went on
    /// to its end.
    fn over_limit(&self, key: RouteKey, label: &RouteLabel, used: u64, limit: u64);

    /// A task that does not belong to the request has used its scope at `location`, after its end.
    fn lost(&self, location: &'static Location<'static>);
}

/// Heap bytes allocated by the closed requests of one method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteFigures {
    /// Rounded to a whole number.
    pub(crate) mean: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

/// State shared by all scopes of one layer.
pub(crate) struct LayerState {
    pub(crate) pool: ArenaPool,
    pub(crate) routes: RouteRegistry,
    pub(crate) sink: Arc<dyn ScopeSink>,
    journals: Arc<Journals>,
    /// Whether the sink wants closed scopes beyond what journals have of them.
    pub(super) reports_closed: AtomicBool,
    pub(crate) grace: Duration,
    /// How long a hold may wait to be taken up after the response.
    pub(crate) hold_timeout: Duration,
    pub(crate) housekeeping: Housekeeping,
    /// The limit of the process, if there is one.
    pub(crate) limit: Option<LayerLimit>,
    /// Whether requests keep the span that they began in.
    pub(crate) keeps_spans: bool,
    /// The open requests, if they are listed.
    pub(crate) open_list: Option<OpenList>,
    pub(crate) shutdown: Shutdown,
    /// What closed requests still hold.
    pub(crate) leftovers: Leftovers<RouteKey>,
    pub(crate) tasks: Tasks,
    /// Values of trusted deadline headers that could not be parsed; only ever grows.
    pub(crate) unparsable_deadlines: AtomicU64,
    /// Trusted start times that a clock that is wrong must have made; only ever grows.
    pub(crate) implausible_starts: AtomicU64,
}

impl LayerState {
    pub(crate) fn new(
        pool: ArenaPool,
        routes: RouteRegistry,
        sink: Arc<dyn ScopeSink>,
        grace: Duration,
        hold_timeout: Duration,
        housekeeping: Housekeeping,
        limit: Option<LayerLimit>,
    ) -> Self {
        Self {
            pool,
            routes,
            journals: Arc::clone(sink.journals()),
            reports_closed: AtomicBool::new(true),
            sink,
            grace,
            hold_timeout,
            housekeeping,
            limit,
            keeps_spans: false,
            open_list: None,
            shutdown: Shutdown::default(),
            leftovers: Leftovers::new(),
            tasks: Tasks::default(),
            unparsable_deadlines: AtomicU64::new(0),
            implausible_starts: AtomicU64::new(0),
        }
    }

    /// Has the calling thread's journal write an entry.
    #[inline]
    pub(super) fn record(&self, push: impl Fn(&Journal) -> Option<usize>) {
        self.journals
            .record(push, |journal, is_full| self.sink.empty(journal, is_full));
    }

    /// Lists the requests that are opened from now on.
    pub(crate) fn list_requests(&mut self) {
        self.open_list = Some(OpenList::default());
    }

    /// Cancels all open scopes, and those that are opened from now on.
    pub(crate) fn shut_down(&self) {
        self.shutdown.begin();
        self.bound().follow_shutdown();
    }

    /// Tells the layer from others while it exists.
    #[inline]
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The tasks that end with their request.
    pub(crate) fn bound(&self) -> Bound {
        Bound(self.address())
    }
}

impl fmt::Debug for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerState")
            .field("pool", &self.pool)
            .field("grace", &self.grace)
            .field("tasks", &self.bound().len())
            .finish_non_exhaustive()
    }
}
