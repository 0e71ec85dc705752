//! Statistics by route, observers of single requests, tasks that outlive their request, and shutdown.
//!
//! Everything starts at a [`MemoryHandle`], except observers, which are added to the layer with
//! [`MemoryLayerBuilder::observe`](crate::middleware::MemoryLayerBuilder::observe).

mod averages;
mod by_route;
#[cfg_attr(
    all(feature = "axum", feature = "tracing"),
    path = "coverage/enabled.rs"
)]
#[cfg_attr(
    not(all(feature = "axum", feature = "tracing")),
    path = "coverage/disabled.rs"
)]
mod coverage;
mod difference;
mod extremes;
pub(crate) mod handle;
#[cfg(feature = "metrics")]
mod metrics;
mod observers;
mod overruns;
#[cfg(feature = "prometheus")]
mod prometheus;
#[cfg(feature = "prometheus")]
mod prometheus_encode;
#[cfg(feature = "prometheus")]
mod prometheus_limit;
mod recorder;
#[cfg(feature = "internals")]
mod recording;
#[cfg(feature = "tracing")]
mod request_log;
mod requests;
mod row;
#[cfg(feature = "serde")]
mod serialize;
mod serve;
mod shutdown;
mod snapshot;
mod stats;
mod suggest;
mod summary;
mod tasks;
#[cfg_attr(feature = "tracing", path = "warn/enabled.rs")]
#[cfg_attr(not(feature = "tracing"), path = "warn/disabled.rs")]
mod warn;

pub use self::extremes::PastRequest;
#[cfg(feature = "metrics")]
pub use self::metrics::metrics_observer;
pub use self::overruns::TaskOverruns;
#[cfg(feature = "prometheus")]
pub use self::prometheus::MemoryCollector;
#[cfg(feature = "internals")]
pub use self::recording::Recording;
#[cfg(feature = "tracing")]
pub use self::request_log::RequestLog;
pub use self::requests::RouteExtremes;
pub use self::shutdown::{OpenRequests, ShutdownReport};
pub use self::snapshot::{OutcomeCounts, RouteSnapshot, Snapshot};
pub use self::suggest::{Suggestion, Suggestions};
pub use self::summary::{Summary, TimeSummary};
pub use self::tasks::CancelLatency;
pub use crate::scope::LiveRequest;
pub use crate::task::DetachedTasks;

pub(crate) use self::handle::MemoryHandle;
pub(crate) use self::observers::Observer;
pub(crate) use self::recorder::Recorder;
pub(crate) use self::warn::{
    layer_was_applied, policy_was_taken, warn_implausible_start, warn_not_installed,
    warn_policy_alone, warn_request_body_alone,
};
#[cfg(feature = "axum")]
pub(crate) use self::warn::{warn_label_alone, warn_missing_layer};
