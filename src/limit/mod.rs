//! A limit for the memory of the process: which requests are admitted, and what is done when memory is tight.
//!
//! [`ProcessLimit`] is given to [`MemoryLayerBuilder::process_limit`]. See the [guide](crate::guide::limits).
//!
//! [`MemoryLayerBuilder::process_limit`]: crate::middleware::MemoryLayerBuilder::process_limit

mod builder;
mod claim;
#[cfg_attr(feature = "tracing", path = "events/enabled.rs")]
#[cfg_attr(not(feature = "tracing"), path = "events/disabled.rs")]
mod events;
mod figures;
mod files;
mod handle;
mod layer;
mod learned;
mod look;
mod mean;
mod mode;
mod policy;
mod pressure;
mod process;
mod snapshot;
mod source;
mod stage;
mod sums;
mod survey;
mod warning;

pub use self::builder::ProcessLimitBuilder;
pub use self::handle::ProcessLimit;
pub use self::mode::LimitMode;
pub use self::pressure::{Pressure, Priority};
pub use self::snapshot::{LimitSnapshot, RefusedBy};
pub use self::source::MemorySource;
pub use self::stage::{Stage, Stages};

pub(crate) use self::claim::Claim;
#[cfg(feature = "debug")]
pub(crate) use self::files::resident_bytes;
pub(crate) use self::layer::{LayerLimit, Refusal};
pub(crate) use self::process::{Relief, Victim};
