use std::time::Duration;

use crate::{cancel::Outcome, route::RouteLabel};

/// An open request, as of [`MemoryHandle::requests`](crate::MemoryHandle::requests).
///
/// # Examples
///
/// See [`MemoryHandle::requests`](crate::MemoryHandle::requests).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveRequest {
    /// The number of the request, as [`RequestScope::id`](crate::RequestScope::id).
    pub id: u64,
    /// The method, as in [`ScopeReport::method`](crate::ScopeReport::method).
    pub method: &'static str,
    /// The route.
    pub route: RouteLabel,
    /// Time since the call of the service.
    pub age: Duration,
    /// Time until the deadline in force, zero if it has passed; `None` without one.
    pub deadline_left: Option<Duration>,
    /// The status of the response; `None` while the handler has not answered.
    pub status: Option<u16>,
    /// Why the request is cancelled, if it is.
    pub cancelled: Option<Outcome>,
    /// Heap bytes allocated by the polls that have returned; `None` if not known.
    pub bytes: Option<u64>,
    /// Heap allocations of these polls; `None` if not known.
    pub allocations: Option<u64>,
    /// Bytes taken from the arena.
    pub arena_bytes: usize,
    /// Tasks that are alive.
    pub tasks: usize,
    /// What the application added with [`RequestScope::annotate`](crate::RequestScope::annotate).
    pub annotations: Vec<(&'static str, String)>,
}
