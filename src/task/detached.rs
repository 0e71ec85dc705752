use std::collections::HashMap;

use crate::{
    account::aside,
    sync::{Mutex, lock},
};

/// Maximum number of names that are counted separately.
const MAX_NAMES: usize = 256;

// `RequestScope::detach` and `DetachedTasks::name` state this bound.
const _: () = assert!(MAX_NAMES == 256);

/// The name under which all others are counted.
const OTHER: &str = "{other}";

/// Counts of the detached tasks with one name.
///
/// Returned by [`MemoryHandle::detached`](crate::MemoryHandle::detached).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DetachedTasks {
    /// The name passed to `RequestScope::detach`. Names after the first 256 are counted as `{other}`.
    pub name: &'static str,
    /// Tasks started so far.
    pub started: u64,
    /// Tasks that exist now.
    pub alive: usize,
    /// Heap bytes allocated by the tasks that have ended; `None` if no task was measured.
    pub bytes: Option<u64>,
}

/// Detached tasks, counted by name.
#[derive(Debug, Default)]
pub(crate) struct DetachedCounters {
    names: Mutex<HashMap<&'static str, DetachedTasks>>,
}

impl DetachedCounters {
    /// Counts a task that starts. Returns the name that it is counted under.
    pub(crate) fn started(&self, name: &'static str) -> &'static str {
        let mut names = lock(&self.names);
        let known = names.contains_key(name) || names.len() < MAX_NAMES;
        let name = if known { name } else { OTHER };
        if names.len() == names.capacity() {
            aside(|| names.reserve(1));
        }
        let counts = names.entry(name).or_insert(DetachedTasks {
            name,
            started: 0,
            alive: 0,
            bytes: None,
        });
        counts.started += 1;
        counts.alive += 1;
        name
    }

    /// Counts the end of a task that was counted under `name`.
    pub(crate) fn ended(&self, name: &'static str, bytes: Option<u64>) {
        if let Some(counts) = lock(&self.names).get_mut(name) {
            counts.alive -= 1;
            if let Some(bytes) = bytes {
                counts.bytes = Some(counts.bytes.unwrap_or(0).saturating_add(bytes));
            }
        }
    }

    /// Returns the counts of each name, sorted by name.
    pub(crate) fn counts(&self) -> Vec<DetachedTasks> {
        let mut counts: Vec<_> = lock(&self.names).values().cloned().collect();
        counts.sort_unstable_by_key(|counts| counts.name);
        counts
    }
}
