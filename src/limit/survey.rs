//! What the housekeeping does for a limit while requests are open.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Weak,
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use super::{
    events,
    look::heap_bytes,
    mode::LimitMode,
    process::{FOUND_SHARE, Process, State},
    stage::Stage,
};
use crate::{
    housekeeping::{self, Chore, Housekeeping, Job},
    sync::{Arc, Ordering::Relaxed, lock, try_lock},
};

/// Between two looks of the housekeeping while requests are open; the second one when memory is tight.
const CALM: Duration = Duration::from_secs(1);
const TIGHT: Duration = Duration::from_millis(10);

/// The share of the limit from which on memory is tight.
const TIGHT_SHARE: f64 = 0.90;

/// Between two searches for the system's limits, and two calls of the reclaim hook.
const RARELY: Duration = Duration::from_secs(10);

/// Freed memory that is still mapped is given back if it is this much, and more than this share.
const MUCH: u64 = 64 << 20;
const MUCH_SHARE: f64 = 0.20;

/// Stalls of this share of the time ask for a stage.
const STALLS: [(f64, Stage); 2] = [(0.25, Stage::BrownOut), (0.10, Stage::Trim)];

impl Process {
    #[cold]
    pub(super) fn start_job(&self) {
        let at = self.housekeeping.now().checked_add(CALM);
        if let (Some(this), Some(at)) = (self.this.upgrade(), at) {
            housekeeping::start(&this, at);
        }
    }

    /// Has everything that can give memory back do so, on the housekeeping's thread.
    pub(super) fn relieve_soon(&self) {
        let relieve = Waker::from(Arc::new(Relieve(Weak::clone(&self.this))));
        let now = self.housekeeping.now();
        self.housekeeping.schedule(now, now, &relieve);
    }

    fn relieve(&self) {
        let stage = if self.mode() == LimitMode::Enforce {
            self.stage()
        } else {
            Stage::Normal
        };
        let reliefs: Vec<_> = {
            let reliefs = lock(&self.reliefs);
            reliefs.iter().filter_map(Weak::upgrade).collect()
        };
        let spare = self.limit().saturating_sub(self.used().unwrap_or(0));
        for relief in reliefs {
            relief.relieve(stage, spare);
        }
    }

    /// Reads what is dearer, once a second. Returns whether it did.
    pub(super) fn survey_if_due(&self, now: Duration) -> bool {
        let Some(mut state) = try_lock(&self.state) else {
            return false;
        };
        let last = state.surveyed.replace(now);
        if last.is_some_and(|last| now.saturating_sub(last) < CALM) {
            state.surveyed = last;
            return false;
        }
        self.survey(&mut state, now);
        true
    }

    fn survey(&self, state: &mut State, now: Duration) {
        let resident = state.files.resident();
        let heap = heap_bytes();
        if let (Some(resident), Some(heap)) = (resident, heap) {
            state.overhead.add(now, resident.saturating_sub(heap));
        }
        let stalled = state.files.stalled().unwrap_or(0.0);
        let hint = STALLS.iter().find(|(share, _)| stalled >= *share);
        state.hint = hint.map_or(Stage::Normal, |(_, stage)| *stage);
        if state.searches && now.saturating_sub(state.searched) >= RARELY {
            state.searched = now;
            self.search(state);
        }
        // Also after a limit was set, by which a request may have reckoned a moment longer.
        self.sums.collect_credits_above(self.limit());
        if let (Some(resident), Some(heap)) = (resident, heap) {
            let unused = resident.saturating_sub(heap.saturating_add(state.overhead.get()));
            self.reclaim_if_much(state, now, resident, unused);
        }
    }

    /// Looks for the system's limits again.
    fn search(&self, state: &mut State) {
        let Ok(found) = state.files.limit() else {
            return;
        };
        let limit = (found.bytes as f64 * FOUND_SHARE) as u64;
        let former = self.limit.swap(limit, Relaxed);
        state.limit_source = found.source;
        if former != limit {
            events::resized(former, limit, found.source);
        }
    }

    /// Calls the reclaim hook if much freed memory is still mapped.
    fn reclaim_if_much(&self, state: &mut State, now: Duration, resident: u64, unused: u64) {
        let Some(reclaim) = &self.reclaim else {
            return;
        };
        let tight = resident as f64 >= self.stages.brown_out * self.limit() as f64
            || state.stage >= Stage::BrownOut;
        let much = unused > MUCH && unused as f64 > MUCH_SHARE * resident as f64;
        let rested = state
            .reclaimed
            .is_none_or(|last| now.saturating_sub(last) >= RARELY);
        if !(tight && much && rested) || self.mode() != LimitMode::Enforce {
            return;
        }
        if self.reclaims.running.swap(true, Relaxed) {
            return;
        }
        state.reclaimed = Some(now);
        let Some(process) = self.this.upgrade() else {
            return;
        };
        let reclaim = Arc::clone(reclaim);
        let files = state.files.clone();
        self.housekeeping.call(move || {
            let done = catch_unwind(AssertUnwindSafe(|| reclaim()));
            let left = files.resident().unwrap_or(resident);
            let reclaims = &process.reclaims;
            reclaims.calls.fetch_add(1, Relaxed);
            reclaims
                .bytes
                .fetch_add(resident.saturating_sub(left), Relaxed);
            reclaims.running.store(false, Relaxed);
            if let Err(panic) = done {
                // Counted by the housekeeping.
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Chore for Process {
    fn job(&self) -> &Job {
        &self.job
    }

    fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    fn run(&self) {
        let now = self.now();
        let surveyed = self.survey_if_due(now);
        self.look(now);
        if surveyed && self.stage() >= Stage::Trim {
            self.relieve();
        }
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        let idle = self.sums.reserved() == 0 && self.stage() == Stage::Normal;
        if idle {
            return None;
        }
        now.checked_add(if self.is_tight() { TIGHT } else { CALM })
    }
}

impl Process {
    fn is_tight(&self) -> bool {
        let used = self.used().unwrap_or(0) as f64;
        used >= TIGHT_SHARE * self.limit() as f64 || self.stage() >= Stage::Refuse
    }
}

/// A call of [`Process::relieve`].
struct Relieve(Weak<Process>);

impl Wake for Relieve {
    fn wake(self: Arc<Self>) {
        if let Some(process) = self.0.upgrade() {
            process.relieve();
        }
    }
}
