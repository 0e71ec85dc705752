//! What a request starts, and what becomes of it.
//!
//! Each task has a `TaskRecord` in the layer's list for as long as it exists, and the tasks of
//! one request share a [`TaskGroup`], which outlives the request if one of them does. Requests
//! without tasks have neither.
//!
//! A task that is asleep when its grace is over drops itself (`cancel::Grace`). One that blocks its
//! thread cannot be ended by anybody: the [`sweeper`] finds it, gives it up so that its scope can
//! close, and names it.

mod blocking;
mod detach;
mod group;
mod handle;
mod names;
mod record;
mod registry;
mod report;
mod spawn;
mod sweeper;

pub use self::handle::{TaskError, TaskErrorKind, TaskHandle};
pub use self::report::{TaskKind, TaskReport};

pub(crate) use self::registry::Tasks;

pub(super) use self::group::TaskGroup;
