//! Gives up tasks of ended requests that outlive their grace period.
//!
//! Most tasks end themselves. The sweeper is for those that block their thread and cannot. Each
//! layer has one sweeper, which runs only while an ended request has tasks. It wakes once per grace
//! period, not once per request.

use std::time::Duration;

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use crate::{scope::config::Gauges, sync::Arc};

/// Time between two looks at a task that is in the middle of a poll.
const RECHECK: Duration = Duration::from_millis(50);

/// Least time between two looks at all.
const PAUSE: Duration = Duration::from_millis(5);

/// Starts the sweeper, if it does not run.
pub(super) fn start(gauges: &Arc<Gauges>, runtime: &Handle) {
    let layer = Arc::clone(gauges);
    gauges.tasks.sweeper.start(runtime, |mut guard| async move {
        loop {
            let now = Instant::now();
            let mut next = look(&layer, now);
            if next.is_none() {
                let is_idle = || {
                    next = look(&layer, now);
                    next.is_none()
                };
                if guard.finish(is_idle) {
                    return;
                }
            }
            sleep_until(next.unwrap_or(now).max(now + PAUSE)).await;
        }
    });
}

/// Deals with the tasks that are due. Returns when to look again, if there is anything to look at.
fn look(gauges: &Gauges, now: Instant) -> Option<Instant> {
    let (overdue, mut next) = gauges.tasks.overdue(now);
    for record in overdue {
        if record.overdue() {
            let again = now + RECHECK;
            next = Some(next.map_or(again, |next| next.min(again)));
        }
    }
    next
}
