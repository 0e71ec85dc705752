//! No-op events for builds without the `tracing` feature.

use crate::{
    limit::{snapshot::RefusedBy, stage::Stage},
    route::{KnownMethod, RouteLabel},
};

/// Does nothing.
pub(in crate::limit) const fn stage_changed(
    _from: Stage,
    _to: Stage,
    _used: Option<u64>,
    _limit: u64,
) {
}

/// Does nothing.
pub(in crate::limit) const fn source_failed() {}

/// Does nothing.
pub(in crate::limit) const fn no_source() {}

/// Does nothing.
pub(in crate::limit) const fn not_installed() {}

/// Does nothing.
pub(in crate::limit) const fn resized(_from: u64, _to: u64, _source: &'static str) {}

/// Does nothing.
pub(in crate::limit) const fn unknown_mode(_word: &str) {}

/// Does nothing.
pub(in crate::limit) const fn would_refuse(
    _route: &RouteLabel,
    _method: KnownMethod,
    _by: RefusedBy,
    _used: Option<u64>,
    _limit: u64,
) {
}

/// Does nothing.
pub(in crate::limit) const fn would_exceed(
    _route: &RouteLabel,
    _method: KnownMethod,
    _peak: Option<u64>,
    _limit: u64,
) {
}

/// Does nothing.
pub(in crate::limit) const fn cancelled(_held: u64, _mean: u64, _used: Option<u64>, _limit: u64) {}
