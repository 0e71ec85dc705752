//! No-op warnings for builds without the `tracing` feature.

use std::time::Duration;

use crate::scope::TaskReport;

/// Does nothing.
pub(crate) const fn warn_overrun(_task: &TaskReport, _given_up: bool) {}

/// Does nothing.
#[cfg(feature = "axum")]
pub(crate) const fn warn_missing_layer(_text: &dyn std::fmt::Display) {}

/// Does nothing.
pub(crate) const fn warn_not_installed() {}

/// Does nothing.
pub(crate) const fn warn_implausible_start(_queued: Duration, _ahead: Duration) {}
