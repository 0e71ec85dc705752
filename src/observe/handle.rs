use super::{
    recorder::Recorder,
    snapshot::{RouteSnapshot, Snapshot},
};
use crate::{
    pool::ArenaPool,
    scope::ScopeConfig,
    sync::{Arc, Ordering},
};

/// A view of what a layer does, from outside of any request.
///
/// Made by [`MemoryLayer::handle`](crate::MemoryLayer::handle). Cloning is cheap.
///
/// # Examples
///
/// ```
/// use tower_memory::MemoryLayer;
///
/// let layer = MemoryLayer::new();
/// let handle = layer.handle();
/// let snapshot = handle.snapshot();
/// assert_eq!(snapshot.in_flight, 0);
/// assert!(snapshot.routes.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct MemoryHandle {
    pub(super) config: Arc<ScopeConfig>,
    pub(super) recorder: Arc<Recorder>,
}

impl MemoryHandle {
    pub(crate) const fn new(config: Arc<ScopeConfig>, recorder: Arc<Recorder>) -> Self {
        Self { config, recorder }
    }

    /// The statistics of each route, and what is alive right now.
    ///
    /// While requests run the figures are taken one after the other, each true at its moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let routes: Vec<_> = self
            .recorder
            .stats
            .totals()
            .map(|(number, opened, totals)| RouteSnapshot {
                route: self.config.routes.label(number).clone(),
                requests: opened,
                in_flight: usize::try_from(opened.saturating_sub(totals.outcomes.total()))
                    .unwrap_or(usize::MAX),
                outcomes: totals.outcomes,
                bytes: totals.bytes.figures(),
                allocations: totals.allocations.figures(),
                arena_bytes: totals.arena_bytes.figures(),
                learned_arena_bytes: self.config.routes.sizes.bytes(number),
                total_time: totals.time.total,
                max_time: totals.time.max,
            })
            // A route whose only requests were given another label since has nothing to say.
            .filter(|route| route.requests > 0)
            .collect();
        let gauges = &self.config.gauges;
        Snapshot {
            in_flight: routes.iter().map(|route| route.in_flight).sum(),
            routes,
            tasks: gauges.tasks.bound(),
            detached: gauges.tasks.detached(),
            tokens: gauges.tokens.len(),
            pool: self.config.pool.stats(),
            // Relaxed: figures, each true at some moment.
            unparsable_deadlines: gauges.unparsable_deadlines.load(Ordering::Relaxed),
            observer_panics: self.recorder.observer_panics.load(Ordering::Relaxed),
        }
    }

    /// The pool that the layer's arenas come from.
    #[must_use]
    pub fn pool(&self) -> &ArenaPool {
        &self.config.pool
    }
}
