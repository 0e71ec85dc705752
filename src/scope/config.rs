use std::{fmt, time::Duration};

use super::{report::Closed, route::RouteRegistry};
use crate::{
    pool::ArenaPool,
    sync::{Arc, AtomicU64, AtomicUsize, Ordering},
};

/// Who is told of scopes. Called from `call` and from `Drop`: must not panic.
pub(crate) trait ScopeSink: Send + Sync {
    /// A scope was opened on the route of this number.
    fn opened(&self, route: usize);

    /// An open scope got another route.
    fn relabelled(&self, from: usize, to: usize);

    /// A scope has closed.
    fn closed(&self, closed: &Closed<'_>);
}

/// What all scopes of one layer have in common.
pub(crate) struct ScopeConfig {
    pub(crate) pool: ArenaPool,
    pub(crate) routes: Arc<RouteRegistry>,
    pub(crate) sink: Arc<dyn ScopeSink>,
    pub(crate) grace: Duration,
    pub(crate) gauges: Arc<Gauges>,
}

/// What is alive right now, and what was passed over.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) tokens: AtomicUsize,
    pub(crate) tasks: AtomicUsize,
    /// Values of trusted deadline headers that could not be read; only ever grows.
    pub(crate) unparsable_deadlines: AtomicU64,
}

impl ScopeConfig {
    pub(crate) fn new(
        pool: ArenaPool,
        routes: Arc<RouteRegistry>,
        sink: Arc<dyn ScopeSink>,
        grace: Duration,
        gauges: Arc<Gauges>,
    ) -> Self {
        Self {
            pool,
            routes,
            sink,
            grace,
            gauges,
        }
    }
}

impl fmt::Debug for ScopeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeConfig")
            .field("pool", &self.pool)
            .field("grace", &self.grace)
            .field("tokens", &self.gauges.tokens.load(Ordering::Relaxed))
            .field("tasks", &self.gauges.tasks.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
