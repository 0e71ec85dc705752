//! Names polls that are slow while they still run. A task of a runtime could not: its workers may all be blocked.

use std::time::{Duration, Instant};

use super::clock::{Anchor, Rate};
use super::{incident::slow_poll, local::set_slow, snapshot::running, threads};
use crate::housekeeping::{Chore, Housekeeping, Job};

/// The least time between two looks.
const LEAST: Duration = Duration::from_millis(5);

/// Looks at what runs.
pub(super) struct Watch {
    job: Job,
    slow: Duration,
    from: Anchor,
}

impl Watch {
    pub(super) fn new(slow: Duration, from: Anchor) -> Self {
        let watch = Self {
            job: Job::default(),
            slow,
            from,
        };
        watch.measure();
        watch
    }

    /// The threshold in ticks, as the counter runs.
    fn measure(&self) -> u64 {
        let slow = Rate::between(self.from, Anchor::now()).ticks(self.slow);
        set_slow(slow);
        slow
    }
}

impl Chore for Watch {
    fn job(&self) -> &Job {
        &self.job
    }

    fn housekeeping(&self) -> &Housekeeping {
        &Housekeeping::Process
    }

    fn run(&self) {
        let slow = self.measure();
        for thread in threads::all().0 {
            if let Some(event) = running(&thread) {
                if event.duration() >= slow && event.kind.may_starve() {
                    slow_poll(&thread, event, true);
                }
            }
        }
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        Some(now + (self.slow / 4).max(LEAST))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        set_slow(u64::MAX);
        self.job.cancel(&Housekeeping::Process);
    }
}
