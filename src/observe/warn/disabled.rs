//! Without the `tracing` feature there is nowhere to warn.

/// Says nothing.
pub(crate) const fn warn_not_installed() {}
