//! Warnings as `tracing` events.

use std::sync::Once;

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
