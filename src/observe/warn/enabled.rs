//! Warnings as `tracing` events.

use std::{
    panic::Location,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    route::RouteLabel,
    scope::{RequestScope, TaskReport},
};

/// Warns that a task outlived its grace period. Called once for each location that starts such tasks.
pub(crate) fn warn_overrun(task: &TaskReport, given_up: bool) {
    let end = match (given_up, task.running) {
        (true, true) => "it blocks its thread and was left running",
        (true, false) => "it is not polled and was left alone",
        (false, _) => "it was aborted",
    };
    tracing::warn!(
        task.kind = task.kind.as_str(),
        task.location = %task.location,
        task.route = task.route.as_str(),
        "{task}; the grace period of its request is over: {end}. Make it return when \
         `RequestScope::child_token` is cancelled. Further tasks from this location are only counted"
    );
}

/// Warns that a poll went on beyond its request's limit. Called once for each route and method.
pub(crate) fn warn_over_limit(method: &'static str, route: &RouteLabel, used: u64, limit: u64) {
    tracing::warn!(
        method,
        route = route.as_str(),
        used,
        limit,
        "a request held more than its limit and could not be ended: its handler neither waited nor checked \
         before it was ready. Call `RequestScope::check` in its long loops. Further requests of this route \
         are only counted, in `RouteSnapshot::over_limit`"
    );
}

/// Warns once per process that an extractor found no scope, in the words of its response.
#[cfg(feature = "axum")]
pub(crate) fn warn_missing_layer(text: &dyn std::fmt::Display) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::warn!("{text}"));
}

/// Warns once per process that the `x-alloc-*` headers are absent, and how to add them.
pub(crate) fn warn_not_installed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "TrackingAllocator is not the global allocator: the headers x-alloc-bytes, \
             x-alloc-count and x-alloc-peak are absent; add `#[global_allocator] static ALLOC: \
             tower_memory::TrackingAllocator = tower_memory::TrackingAllocator::system();`"
        );
    });
}

/// Warns once per process that `x-request-start` and this machine's clock do not match.
pub(crate) fn warn_implausible_start(queued: Duration, ahead: Duration) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            ?queued,
            ?ahead,
            "the trusted header x-request-start was ignored: it is further from this machine's clock \
             than any queue explains. Synchronize the proxy's clock and this one, or set \
             `MemoryLayerBuilder::max_queue_time`. Further values are only counted, in \
             `Snapshot::implausible_request_starts`"
        );
    });
}

/// Warns once per process that a task has used the scope of a request after its end.
pub(crate) fn warn_lost_scope(location: &'static Location<'static>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            %location,
            "a RequestScope was used after its request had ended, by a task or a blocking closure that \
             does not belong to the request: what it allocates is not accounted, and it is not ended with \
             the request. Start it with `scope.spawn(..)` or `scope.spawn_blocking(..)` instead of \
             tokio's, or wrap the future: `tokio::spawn(scope.track(future))`. On an upgraded connection \
             take `scope.hold()`"
        );
    });
}

/// What the process knows of policies and layers.
struct Policies {
    /// Whether there is a service of a `MemoryLayer`.
    has_layer: AtomicBool,
    /// Whether a layer has found a policy that was left for it.
    taken: AtomicBool,
    /// Requests that were served although no layer around the policy has opened a scope.
    left: AtomicU32,
}

/// A layer in between may answer some requests, but not the first 16 that are served.
const LEFT: u32 = 16;

impl Policies {
    const fn new() -> Self {
        Self {
            has_layer: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            left: AtomicU32::new(0),
        }
    }

    /// Whether a policy without a layer around it, whose request was answered, has none inside either.
    fn is_alone(&self, served: bool) -> bool {
        // Relaxed: each is a fact of its own.
        if !self.has_layer.load(Ordering::Relaxed) {
            return true;
        }
        !self.taken.load(Ordering::Relaxed)
            && served
            && self.left.fetch_add(1, Ordering::Relaxed) >= LEFT - 1
    }
}

static POLICIES: Policies = Policies::new();

/// Records that a `MemoryLayer` was applied to a service.
pub(crate) fn layer_was_applied() {
    POLICIES.has_layer.store(true, Ordering::Relaxed);
}

/// Records that a layer has found a policy that was left for it.
pub(crate) fn policy_was_taken() {
    POLICIES.taken.store(true, Ordering::Relaxed);
}

/// Warns once per process of a policy without a layer. Called when a request that no layer around the
/// policy has seen was answered; `served` says that it was served, and not refused.
pub(crate) fn warn_policy_alone(served: bool) {
    static ONCE: Once = Once::new();
    // A request that a handler has sent need not pass a layer.
    if ONCE.is_completed() || RequestScope::current().is_some() || !POLICIES.is_alone(served) {
        return;
    }
    ONCE.call_once(|| {
        tracing::warn!(
            "a RoutePolicy has no MemoryLayer, so its limits do not apply: add \
             `.layer(MemoryLayer::new())` to the router, after the routes it should cover (routes added \
             later are not covered)"
        );
    });
}

/// Warns once per process of a `RequestBodyLayer` that found no scope.
pub(crate) fn warn_request_body_alone() {
    static ONCE: Once = Once::new();
    if ONCE.is_completed() || RequestScope::current().is_some() {
        return;
    }
    ONCE.call_once(|| {
        tracing::warn!(
            "a RequestBodyLayer has no MemoryLayer around it, so it watches nothing: add \
             `.layer(MemoryLayer::new())` outside of it"
        );
    });
}

/// Warns once per process of a `RouteLabelLayer` that found no scope.
#[cfg(feature = "axum")]
pub(crate) fn warn_label_alone() {
    static ONCE: Once = Once::new();
    if ONCE.is_completed() || RequestScope::current().is_some() {
        return;
    }
    ONCE.call_once(|| {
        tracing::warn!(
            "a RouteLabelLayer has no MemoryLayer around it, so it labels nothing: put the router into \
             one, `MemoryLayer::new().layer(router)`"
        );
    });
}

/// Warns that a layer covers no routes. Called once for each layer.
#[cfg(feature = "axum")]
pub(crate) fn warn_no_routes() {
    tracing::warn!(
        "a MemoryLayer was added to a Router without routes, and all requests that it has seen were \
         answered with 404: routes that are added after `Router::layer` are not covered. Move \
         `.layer(MemoryLayer::new())` behind them"
    );
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_known_to_be_alone_if_there_is_no_layer_at_all() {
        let policies = Policies::new();
        assert!(policies.is_alone(false));
        policies.has_layer.store(true, Ordering::Relaxed);
        assert!(!policies.is_alone(false));
    }

    #[test]
    fn refused_requests_do_not_tell_that_a_policy_is_alone() {
        let policies = Policies::new();
        policies.has_layer.store(true, Ordering::Relaxed);
        assert!((0..100).all(|_| !policies.is_alone(false)));
        assert!((1..LEFT).all(|_| !policies.is_alone(true)));
        assert!(policies.is_alone(true));
    }

    #[test]
    fn a_policy_that_a_layer_takes_is_not_alone() {
        let policies = Policies::new();
        policies.has_layer.store(true, Ordering::Relaxed);
        policies.taken.store(true, Ordering::Relaxed);
        assert!((0..100).all(|_| !policies.is_alone(true)));
    }
}
