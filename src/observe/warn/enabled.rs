//! Warnings as `tracing` events.

use std::sync::Once;

use crate::scope::TaskReport;

/// Says that a task outlived its request; asked once for each place that starts such tasks.
pub(crate) fn warn_overrun(task: &TaskReport) {
    let end = if task.running {
        "it holds its thread, so it was left running"
    } else {
        "it was dropped"
    };
    tracing::warn!(
        task.kind = task.kind.as_str(),
        task.location = %task.location,
        task.route = task.route.as_str(),
        "{task}; its request has ended, and its grace is over: {end}. It should end when \
         `RequestScope::child_token` is cancelled; further ones from the same place are only counted"
    );
}

/// Says, once per process, why the `x-alloc-*` figures are absent.
pub(crate) fn warn_not_installed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "TrackingAllocator is not the global allocator: x-alloc-bytes, x-alloc-count and \
             x-alloc-peak are absent; add `#[global_allocator] static ALLOC: \
             tower_memory::TrackingAllocator = tower_memory::TrackingAllocator::system();`"
        );
    });
}
