//! What was measured: per-route statistics and observers.

mod handle;
mod observer;
mod recorder;
mod snapshot;
mod stats;
#[cfg_attr(feature = "tracing", path = "warn/enabled.rs")]
#[cfg_attr(not(feature = "tracing"), path = "warn/disabled.rs")]
mod warn;

pub use self::handle::MemoryHandle;
pub use self::observer::Observer;
pub use self::snapshot::{Figures, OutcomeCounts, RouteSnapshot, Snapshot};

pub(crate) use self::recorder::Recorder;
pub(crate) use self::warn::warn_not_installed;
