//! Looks at the tasks of ended requests when their grace is over.
//!
//! Tasks end themselves, so there is mostly nothing to do: it is for those that cannot, because
//! they block their thread. One sweeper for a layer, there only while an ended request has tasks;
//! it wakes once per grace, and not once per request.

use std::time::Duration;

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::registry::Tasks;
use crate::sync::{Arc, Ordering};

/// Time between two looks at a task that is in the middle of a poll.
const RECHECK: Duration = Duration::from_millis(50);

/// Least time between two looks at all.
const PAUSE: Duration = Duration::from_millis(5);

/// Starts the sweeper; its flag is up.
pub(super) fn start(tasks: Arc<Tasks>, runtime: &Handle) {
    // Made here: a runtime that is going down drops the future without polling it.
    let mut flag = Flag { tasks, up: true };
    runtime.spawn(async move {
        loop {
            let now = Instant::now();
            let mut next = look(&flag.tasks, now);
            if next.is_none() {
                // See `Tasks::supervise`.
                let sweeping = &flag.tasks.sweeping;
                sweeping.store(false, Ordering::SeqCst);
                next = look(&flag.tasks, now);
                if next.is_none() || sweeping.swap(true, Ordering::SeqCst) {
                    flag.lowered();
                    return;
                }
            }
            sleep_until(next.unwrap_or(now).max(now + PAUSE)).await;
        }
    });
}

/// Deals with the tasks that are due. Returns when to look again, if there is anything to look at.
fn look(tasks: &Tasks, now: Instant) -> Option<Instant> {
    let (overdue, mut next) = tasks.overdue(now);
    for record in overdue {
        if record.overdue() {
            let again = now + RECHECK;
            next = Some(next.map_or(again, |next| next.min(again)));
        }
    }
    next
}

/// Takes the sweeper's flag down if the sweeper goes down with its runtime.
struct Flag {
    tasks: Arc<Tasks>,
    up: bool,
}

impl Flag {
    /// The flag is down already, or it is another sweeper's.
    fn lowered(&mut self) {
        self.up = false;
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        if self.up {
            // SeqCst: as where the sweeper takes it down itself.
            self.tasks.sweeping.store(false, Ordering::SeqCst);
        }
    }
}
