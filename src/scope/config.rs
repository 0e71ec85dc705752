use std::{fmt, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    report::Closed,
    route::RouteRegistry,
    shards::Shards,
    shutdown::Shutdown,
    task::{TaskReport, Tasks},
};
use crate::{
    pool::ArenaPool,
    sync::{Arc, AtomicU64},
};

/// Who is told of scopes. Called from `call` and from `Drop`: must not panic.
pub(crate) trait ScopeSink: Send + Sync {
    /// A scope was opened on the route of this number.
    fn opened(&self, route: usize);

    /// An open scope got another route.
    fn relabelled(&self, from: usize, to: usize);

    /// A scope has closed.
    fn closed(&self, closed: &Closed<'_>);

    /// A task still ran when its grace was over.
    fn overran(&self, task: &TaskReport);

    /// The last task of a request on this route ended so long after the request was cancelled.
    fn tasks_over(&self, route: usize, after: Duration);
}

/// What all scopes of one layer have in common.
pub(crate) struct ScopeConfig {
    pub(crate) pool: ArenaPool,
    pub(crate) routes: RouteRegistry,
    pub(crate) sink: Arc<dyn ScopeSink>,
    pub(crate) grace: Duration,
    pub(crate) gauges: Arc<Gauges>,
}

/// What is alive right now, and whether it should go.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) shutdown: Shutdown,
    pub(crate) tokens: Shards<CancellationToken>,
    pub(crate) tasks: Tasks,
    /// Values of trusted deadline headers that could not be read; only ever grows.
    pub(crate) unparsable_deadlines: AtomicU64,
}

impl Gauges {
    /// Cancels all open scopes, and those that are opened from now on.
    pub(crate) fn shut_down(&self) {
        self.shutdown.begin();
        // Not under the lock: cancelling wakes tasks.
        for token in self.tokens.filter_map(|token| Some(token.clone())) {
            token.cancel();
        }
    }
}

impl fmt::Debug for ScopeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeConfig")
            .field("pool", &self.pool)
            .field("grace", &self.grace)
            .field("tokens", &self.gauges.tokens.len())
            .field("tasks", &self.gauges.tasks.bound())
            .finish_non_exhaustive()
    }
}
