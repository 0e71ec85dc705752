use std::{collections::HashMap, panic::Location};

use crate::{
    scope::TaskReport,
    sync::{Mutex, lock},
};

/// Maximum number of source locations that are counted separately.
const MAX_LOCATIONS: usize = 256;

// `TaskOverruns::location` states this bound.
const _: () = assert!(MAX_LOCATIONS == 256);

/// Tasks that outlived their grace period, by the source location that started them.
#[derive(Debug, Default)]
pub(super) struct Overruns {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    locations: HashMap<&'static Location<'static>, Counts>,
    /// Counts of all other locations.
    others: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) aborted: u64,
    pub(super) given_up: u64,
}

impl Overruns {
    /// Counts a task. Returns whether it is the first of its location; always `false` above the bound.
    pub(super) fn add(&self, task: &TaskReport) -> bool {
        let mut table = lock(&self.table);
        let known = table.locations.contains_key(task.location);
        let counts = if known || table.locations.len() < MAX_LOCATIONS {
            table.locations.entry(task.location).or_default()
        } else {
            &mut table.others
        };
        let count = if task.running {
            &mut counts.given_up
        } else {
            &mut counts.aborted
        };
        *count = count.saturating_add(1);
        !known && counts.aborted.saturating_add(counts.given_up) == 1
    }

    /// Returns the counts of each location, sorted, and those of all others if there are any.
    pub(super) fn counts(&self) -> Vec<(Option<&'static Location<'static>>, Counts)> {
        let table = lock(&self.table);
        let mut counts: Vec<_> = table
            .locations
            .iter()
            .map(|(location, counts)| (Some(*location), *counts))
            .collect();
        counts.sort_unstable_by_key(|(location, _)| *location);
        if table.others.aborted > 0 || table.others.given_up > 0 {
            counts.push((None, table.others));
        }
        counts
    }
}
