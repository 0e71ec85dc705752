use std::{fmt, time::Duration};

use super::{inner::Inner, report::ScopeReport, route::RouteRegistry};
use crate::{
    pool::ArenaPool,
    sync::{Arc, AtomicUsize, Mutex, Ordering, lock},
};

/// Most spare scopes kept; room for them is taken in advance.
const MAX_SPARES: usize = 256;

/// Who is told of scopes. Called from `call` and from `Drop`: must not panic.
pub(crate) trait ScopeSink: Send + Sync {
    /// A scope was opened on the route of this number.
    fn opened(&self, route: usize);

    /// An open scope got another route.
    fn relabelled(&self, from: usize, to: usize);

    /// A scope of this route has closed.
    fn closed(&self, route: usize, report: &ScopeReport);
}

/// What all scopes of one layer have in common.
pub(crate) struct ScopeConfig {
    pub(crate) pool: ArenaPool,
    pub(crate) routes: Arc<RouteRegistry>,
    pub(crate) sink: Arc<dyn ScopeSink>,
    pub(crate) grace: Duration,
    pub(crate) gauges: Arc<Gauges>,
    /// Scopes to be used again. They hold no reference to this configuration, so that it can end.
    spares: Mutex<Vec<Arc<Inner>>>,
}

/// What is alive right now.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) tokens: AtomicUsize,
    pub(crate) tasks: AtomicUsize,
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
            spares: Mutex::new(Vec::with_capacity(MAX_SPARES)),
        }
    }

    pub(super) fn take_spare(&self) -> Option<Arc<Inner>> {
        lock(&self.spares).pop()
    }

    pub(super) fn put_spare(&self, spare: Arc<Inner>) {
        let mut spares = lock(&self.spares);
        if spares.len() < MAX_SPARES {
            spares.push(spare);
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
