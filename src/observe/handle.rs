use super::{
    recorder::Recorder,
    snapshot::{RouteSnapshot, Snapshot},
};
use crate::{
    pool::ArenaPool,
    scope::LayerState,
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
    pub(super) layer: Arc<LayerState>,
    pub(super) recorder: Arc<Recorder>,
}

impl MemoryHandle {
    pub(crate) const fn new(layer: Arc<LayerState>, recorder: Arc<Recorder>) -> Self {
        Self { layer, recorder }
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
                route: self.layer.routes.route(number).label.clone(),
                requests: opened,
                in_flight: usize::try_from(opened.saturating_sub(totals.outcomes.total()))
                    .unwrap_or(usize::MAX),
                outcomes: totals.outcomes,
                bytes: totals.bytes.figures(),
                allocations: totals.allocations.figures(),
                arena_bytes: totals.arena_bytes.figures(),
                learned_arena_bytes: self.layer.routes.sizes.bytes(number),
                total_time: totals.time.total,
                max_time: totals.time.max,
            })
            // A route whose only requests were given another label since has nothing to say.
            .filter(|route| route.requests > 0)
            .collect();
        let layer = &self.layer;
        Snapshot {
            in_flight: routes.iter().map(|route| route.in_flight).sum(),
            routes,
            tasks: layer.tasks.bound(),
            detached: layer.tasks.detached(),
            tokens: layer.tokens.len(),
            pool: self.layer.pool.stats(),
            // Relaxed: figures, each true at some moment.
            unparsable_deadlines: layer.unparsable_deadlines.load(Ordering::Relaxed),
            observer_panics: self.recorder.observer_panics.load(Ordering::Relaxed),
        }
    }

    /// The pool that the layer's arenas come from.
    #[must_use]
    pub fn pool(&self) -> &ArenaPool {
        &self.layer.pool
    }
}
