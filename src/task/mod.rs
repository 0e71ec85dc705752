//! The tasks of requests: a record of each, and those that outlive their request.
//!
//! A task knows its request as a [`TaskOwner`] only, so this module is below the scope.

mod detached;
mod entered;
mod group;
mod handle;
mod look;
#[cfg(all(test, tower_memory_loom))]
pub(crate) mod models;
mod record;
mod recycle;
mod registry;
mod report;
#[cfg_attr(feature = "tracing", path = "span/enabled.rs")]
#[cfg_attr(not(feature = "tracing"), path = "span/disabled.rs")]
mod span;
mod supervision;
mod tokens;

pub use self::detached::DetachedTasks;
pub use self::handle::{TaskError, TaskHandle};
pub use self::report::{TaskKind, TaskReport};

pub(crate) use self::entered::{EnteredTask, TaskId};
#[cfg(all(test, tower_memory_loom))]
pub(crate) use self::group::Group;
pub(crate) use self::group::User;
pub(crate) use self::record::{Origin, TaskGroup, TaskOwner, WakerId, waker_id};
pub(crate) use self::recycle::TaskRef;
pub(crate) use self::registry::{Bound, Tasks};
pub(crate) use self::report::TaskFigures;
pub(crate) use self::span::{EnteredSpan, TaskSpan};
pub(crate) use self::supervision::Terms;
