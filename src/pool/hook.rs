use std::{fmt, time::Instant};

use super::settings::OnTrim;
use crate::{
    housekeeping::{self, Chore, Housekeeping, Job},
    sync::{Arc, AtomicU64, Ordering},
};

/// Least bytes for which the hook of [`PoolBuilder::on_trim`](super::PoolBuilder::on_trim) is called.
const MUCH: u64 = 1 << 20;

// `PoolBuilder::on_trim` says so.
const _: () = assert!(MUCH == 1_048_576);

/// Calls a pool's hook apart from trimming, which it may not delay.
///
/// What is freed during a call is told by the next one.
pub(super) struct TrimHook {
    hook: OnTrim,
    /// Bytes that the pool has evicted so far.
    evicted: AtomicU64,
    /// Those that the hook has been told.
    told: AtomicU64,
    job: Job,
    housekeeping: Housekeeping,
}

impl TrimHook {
    pub(super) fn new(hook: OnTrim, housekeeping: &Housekeeping) -> Arc<Self> {
        Arc::new(Self {
            hook,
            evicted: AtomicU64::new(0),
            told: AtomicU64::new(0),
            job: Job::default(),
            housekeeping: housekeeping.hooks(),
        })
    }

    /// Has the hook called if much was freed since the last time. `evicted` never decreases.
    pub(super) fn after_trim(self: &Arc<Self>, evicted: u64) {
        // Relaxed: only the trimmer stores it, and the job orders the rest.
        self.evicted.store(evicted, Ordering::Relaxed);
        if self.untold() >= MUCH && self.job.needs_start_here() {
            housekeeping::start(self, self.housekeeping.now());
        }
    }

    fn untold(&self) -> u64 {
        let told = self.told.load(Ordering::Relaxed);
        self.evicted.load(Ordering::Relaxed).saturating_sub(told)
    }
}

impl Chore for TrimHook {
    fn job(&self) -> &Job {
        &self.job
    }

    fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    fn run(&self) {
        let freed = self.untold();
        // Added first: the hook may panic.
        self.told.fetch_add(freed, Ordering::Relaxed);
        (self.hook)(freed);
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        (self.untold() >= MUCH).then_some(now)
    }
}

impl fmt::Debug for TrimHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrimHook").finish_non_exhaustive()
    }
}
