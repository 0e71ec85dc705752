use std::{fmt, panic::Location, time::Duration};

use crate::{account::Usage, route::RouteLabel};

/// How a task was started.
///
/// # Examples
///
/// ```
/// use tower_memory::scope::TaskKind;
///
/// assert_eq!(TaskKind::Async.as_str(), "async");
/// assert_eq!(TaskKind::Detached.to_string(), "detached");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskKind {
    /// Started with `RequestScope::spawn` or `spawn_local`.
    Async,
    /// Started with `RequestScope::spawn_blocking`.
    Blocking,
    /// Started with `RequestScope::detach`.
    Detached,
    /// Passed to `RequestScope::track`, and polled by something else.
    Tracked,
}

impl TaskKind {
    /// Returns the name as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Blocking => "blocking",
            Self::Detached => "detached",
            Self::Tracked => "tracked",
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A task of a request, and its figures.
///
/// # Examples
///
/// ```
/// use tower_memory::MemoryLayer;
///
/// let handle = MemoryLayer::new().handle();
/// for task in handle.outliving() {
///     // "async task started at src/main.rs:12:9 for /items/{n}: 5.2s old, 1480 bytes"
///     println!("{task}");
/// }
/// # assert!(handle.outliving().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskReport {
    /// How the task was started.
    pub kind: TaskKind,
    /// The name passed to `RequestScope::detach`.
    pub name: Option<&'static str>,
    /// The source location that started it.
    pub location: &'static Location<'static>,
    /// The route of its request.
    pub route: RouteLabel,
    /// Time since it was started.
    pub age: Duration,
    /// Time since its request ended; `None` if the request is open.
    pub since_end: Option<Duration>,
    /// Heap allocations in the polls that have returned; `None` if not known, as for a closure that
    /// still runs.
    pub usage: Option<Usage>,
    /// Whether it occupies a thread: it is running, and cannot be dropped before it returns or awaits.
    pub running: bool,
}

/// What is known of a request's tasks when its scope closes.
#[derive(Debug, Default)]
pub(crate) struct TaskFigures {
    /// Tasks started.
    pub(crate) spawned: usize,
    pub(crate) aborted: usize,
    pub(crate) given_up: usize,
    /// Time from the cancellation to the end of the last task. `None` if there was no task to cancel, or
    /// one still runs.
    pub(crate) cancel_latency: Option<Duration>,
    pub(crate) overruns: Vec<TaskReport>,
}

impl fmt::Display for TaskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} task ", self.kind)?;
        if let Some(name) = self.name {
            write!(f, "{name:?} ")?;
        }
        write!(
            f,
            "started at {} for {}: {:.1?} old",
            self.location, self.route, self.age
        )?;
        match &self.usage {
            Some(usage) => write!(f, ", {} bytes", usage.bytes_allocated),
            None => Ok(()),
        }
    }
}
