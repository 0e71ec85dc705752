//! No-op warnings for builds without the `tracing` feature.

use std::{panic::Location, time::Duration};

use crate::{route::RouteLabel, scope::TaskReport};

/// Does nothing.
pub(crate) const fn warn_overrun(_task: &TaskReport, _given_up: bool) {}

/// Does nothing.
pub(crate) const fn warn_over_limit(_: &'static str, _route: &RouteLabel, _used: u64, _limit: u64) {
}

/// Does nothing.
#[cfg(feature = "axum")]
pub(crate) const fn warn_missing_layer(_text: &dyn std::fmt::Display) {}

/// Does nothing.
pub(crate) const fn warn_not_installed() {}

/// Does nothing.
pub(crate) const fn warn_implausible_start(_queued: Duration, _ahead: Duration) {}

/// Does nothing.
pub(crate) const fn warn_lost_scope(_location: &'static Location<'static>) {}

/// Does nothing.
pub(crate) const fn layer_was_applied() {}

/// Does nothing.
pub(crate) const fn policy_was_taken() {}

/// Does nothing.
pub(crate) const fn warn_policy_alone(_served: bool) {}

/// Does nothing.
pub(crate) const fn warn_request_body_alone() {}

/// Does nothing.
#[cfg(feature = "axum")]
pub(crate) const fn warn_label_alone() {}
