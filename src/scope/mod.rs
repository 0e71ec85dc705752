//! One request: what it may use, what it has used, and when it is over.
//!
//! A [`RequestScope`] is opened by the middleware's `call` and ends when the response is over: its
//! body finished or dropped, or, on an upgraded connection, the last [`ScopeHold`] dropped. Then
//! its token is cancelled and its tasks get their grace period. When the last of them has ended the
//! scope *closes*: one [`ScopeReport`] is made and passed to the observers. Each step happens once,
//! however the request ends.

mod annotations;
mod budget;
mod cancelled;
#[cfg_attr(feature = "test-util", path = "capture/enabled.rs")]
#[cfg_attr(not(feature = "test-util"), path = "capture/disabled.rs")]
mod capture;
mod current;
mod deadline;
mod ending;
mod erased;
pub(crate) mod handle;
mod hold;
mod id;
mod label;
mod layer;
mod lifecycle;
mod listed;
mod live;
mod lost;
mod memory;
mod open;
mod open_list;
mod parent;
pub(crate) mod policy;
mod recycle;
pub(crate) mod report;
mod shutdown;
mod spawn;
mod state;
mod stream;
#[cfg(feature = "trace")]
mod traced;
mod track;

pub use self::hold::{HoldFuture, ScopeHold};
pub use self::report::{ArenaSource, ArenaUsage};
pub use self::track::TrackedFuture;
pub use crate::route::RouteLabel;
pub use crate::task::{TaskError, TaskHandle, TaskKind, TaskReport};

pub(crate) use self::budget::CallBudget;
pub(crate) use self::cancelled::UntilCancelled;
#[cfg(feature = "test-util")]
pub(crate) use self::capture::Capture;
pub(crate) use self::current::EnteredScope;
pub(crate) use self::handle::RequestScope;
pub(crate) use self::layer::{LayerState, RouteFigures, ScopeSink};
pub use self::live::LiveRequest;
pub(crate) use self::memory::PoolRelief;
pub(crate) use self::open::OpenScope;
pub(crate) use self::parent::own_path;
pub(crate) use self::policy::RoutePolicy;
pub(crate) use self::report::{Closed, ScopeReport};
#[cfg(all(test, not(tower_memory_loom)))]
pub(crate) use self::report::{closed_for_tests, report_for_tests};
pub(crate) use self::shutdown::Exempt;
pub(crate) use self::stream::StreamPlace;
