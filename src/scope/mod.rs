//! One request: what it may use, what it has used, and when it is over.
//!
//! A [`RequestScope`] is opened by the middleware's `call` and ends when the response is over: its
//! body finished or dropped, or, on an upgraded connection, the last [`ScopeHold`] dropped. Then
//! its token is cancelled, its tasks have their grace, and when the last of them has ended the
//! scope *closes*: one [`ScopeReport`] is made and handed to the observers. Each step happens
//! once, whatever way the request ends.

mod config;
mod current;
mod deadline;
mod handle;
mod hold;
mod inner;
mod keeper;
mod lifecycle;
mod limits;
mod policy;
mod report;
mod route;
mod shards;
mod shutdown;
mod spare;
mod task;

pub use self::handle::RequestScope;
pub use self::hold::{HoldFuture, ScopeHold};
pub use self::policy::RoutePolicy;
pub use self::report::{ArenaSource, ArenaUsage, ScopeReport};
pub use self::route::RouteLabel;
pub use self::task::{TaskError, TaskErrorKind, TaskHandle, TaskKind, TaskReport};

pub(crate) use self::config::{ScopeConfig, ScopeSink};
pub(crate) use self::keeper::Keeper;
pub(crate) use self::limits::{Arrival, BodyKind};
pub(crate) use self::report::Closed;
pub(crate) use self::route::{MAX_LABEL_BYTES, MAX_ROUTES, RouteRegistry, UNMATCHED};
pub(crate) use self::shards::{SHARDS, thread_shard};
