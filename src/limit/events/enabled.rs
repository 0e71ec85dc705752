//! What happens to a limit, as `tracing` events.

use std::sync::Once;

use crate::{
    limit::{snapshot::RefusedBy, stage::Stage},
    route::{KnownMethod, RouteLabel},
};

/// The stage has changed.
pub(in crate::limit) fn stage_changed(from: Stage, to: Stage, used: Option<u64>, limit: u64) {
    if to > from {
        tracing::warn!(%from, %to, used, limit, "memory is tighter");
    } else {
        tracing::info!(%from, %to, used, limit, "memory is less tight");
    }
}

/// A source could not be read.
pub(in crate::limit) fn source_failed() {
    tracing::warn!(
        "a memory source could not be read; the next one is used, and this one is tried again after 10 s"
    );
}

/// No source tells what is used. Once per process.
pub(in crate::limit) fn no_source() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "no source tells how much memory is used: the limit of the process has no effect"
        );
    });
}

/// Nothing can be predicted. Once per process.
pub(in crate::limit) fn not_installed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "TrackingAllocator is not the global allocator: the limit of the process goes by the resident \
             memory, with thresholds, and predicts nothing"
        );
    });
}

/// The limit that was found has changed.
pub(in crate::limit) fn resized(from: u64, to: u64, source: &'static str) {
    tracing::info!(from, to, source, "the limit of the process has changed");
}

/// The mode in the environment is none. Once per limit.
pub(in crate::limit) fn unknown_mode(word: &str) {
    tracing::warn!(
        word,
        "TOWER_MEMORY_LIMIT is ignored: expected off, observe, warn or enforce"
    );
}

/// A request would be refused in `LimitMode::Enforce`.
pub(in crate::limit) fn would_refuse(
    route: &RouteLabel,
    method: KnownMethod,
    by: RefusedBy,
    used: Option<u64>,
    limit: u64,
) {
    tracing::warn!(
        route = route.as_str(),
        method = method.as_str(),
        by = by.as_str(),
        used,
        limit,
        "a request would have been refused; further ones of this route in this minute are only counted"
    );
}

/// A request would be ended in `LimitMode::Enforce`.
pub(in crate::limit) fn would_exceed(
    route: &RouteLabel,
    method: KnownMethod,
    peak: Option<u64>,
    limit: u64,
) {
    tracing::warn!(
        route = route.as_str(),
        method = method.as_str(),
        peak,
        limit,
        "a request held more than it may; further ones of this route in this minute are only counted"
    );
}

/// A request was cancelled, since it held the most.
pub(in crate::limit) fn cancelled(held: u64, mean: u64, used: Option<u64>, limit: u64) {
    tracing::warn!(
        held,
        mean,
        used,
        limit,
        "a request is cancelled to free memory"
    );
}
