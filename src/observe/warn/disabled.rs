//! Without the `tracing` feature there is nowhere to warn.

use crate::scope::TaskReport;

/// Says nothing.
pub(crate) const fn warn_overrun(_task: &TaskReport) {}

/// Says nothing.
pub(crate) const fn warn_not_installed() {}
