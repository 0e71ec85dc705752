use std::{collections::HashMap, panic::Location};

use crate::{
    account::aside,
    scope::TaskReport,
    sync::{Mutex, lock},
};

/// Maximum number of source locations that are counted separately.
const MAX_LOCATIONS: usize = 256;

// `TaskOverruns::location` states this bound.
const _: () = assert!(MAX_LOCATIONS == 256);

/// How many tasks started at one source location outlived their grace period.
///
/// Returned by [`MemoryHandle::task_overruns`](crate::MemoryHandle::task_overruns).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOverruns {
    /// The source location. Locations after the first 256 are counted as `None`.
    pub location: Option<&'static Location<'static>>,
    /// Tasks that were aborted.
    pub aborted: u64,
    /// Tasks that blocked their thread and were left running, and tracked futures that were not polled.
    pub given_up: u64,
}

/// Tasks that outlived their grace period, by the source location that started them. All locations
/// above the bound are counted as `None`.
#[derive(Debug, Default)]
pub(super) struct Overruns {
    locations: Mutex<HashMap<Option<&'static Location<'static>>, TaskOverruns>>,
}

impl Overruns {
    /// Counts a task. Returns whether it is the first of its location, or the first above the bound.
    pub(super) fn add(&self, task: &TaskReport, given_up: bool) -> bool {
        let mut locations = lock(&self.locations);
        let location = Some(task.location);
        let known = locations.contains_key(&location) || locations.len() < MAX_LOCATIONS;
        let location = location.filter(|_| known);
        if locations.len() == locations.capacity() {
            aside(|| locations.reserve(1));
        }
        let counts = locations.entry(location).or_insert(TaskOverruns {
            location,
            aborted: 0,
            given_up: 0,
        });
        let count = if given_up {
            &mut counts.given_up
        } else {
            &mut counts.aborted
        };
        *count = count.saturating_add(1);
        counts.aborted.saturating_add(counts.given_up) == 1
    }

    /// Returns the counts of each location, sorted, and those of all others if there are any.
    pub(super) fn counts(&self) -> Vec<TaskOverruns> {
        let mut counts: Vec<_> = lock(&self.locations).values().cloned().collect();
        counts.sort_unstable_by_key(|counts| (counts.location.is_none(), counts.location));
        counts
    }
}
