//! Warnings as `tracing` events.

use std::{sync::Once, time::Duration};

use crate::scope::TaskReport;

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
