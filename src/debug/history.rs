//! What the plots show: a sample of the process and the pool every five seconds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    account::process_usage,
    housekeeping::{Chore, Housekeeping, Job},
    limit::resident_bytes,
    observe::MemoryHandle,
    sync::{Mutex, lock},
};

/// Time from one sample to the next.
const STEP: Duration = Duration::from_secs(5);

/// What the plots go back to.
pub(super) const SPAN: Duration = Duration::from_secs(600);

/// So many samples span that time.
const KEPT: usize = 121;

/// The memory of the process and the pool at one moment. What is not known is absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) resident: Option<u64>,
    /// Bytes that the program has allocated and not freed.
    pub(super) tracked: Option<u64>,
    pub(super) waiting: u64,
    pub(super) arenas: u64,
    pub(super) buffers: u64,
}

impl Sample {
    fn take(handle: &MemoryHandle, at: Instant) -> Self {
        let pool = handle.pool().stats();
        Self {
            at,
            resident: resident_bytes(),
            tracked: process_usage().and_then(|usage| u64::try_from(usage.live_bytes()).ok()),
            waiting: pool.pooled_bytes as u64,
            arenas: pool.rented_bytes as u64,
            buffers: pool.buffer_bytes as u64,
        }
    }

    /// Resident memory that no allocation of the program accounts for: the allocator's reserve, stacks, code,
    /// mapped files, and other allocators. `None` if one of the two is not known, or allocations that were never
    /// touched outweigh it.
    pub(super) fn unattributed(&self) -> Option<u64> {
        self.resident?.checked_sub(self.tracked?)
    }
}

/// The samples of the last ten minutes.
pub(super) struct History {
    handle: MemoryHandle,
    housekeeping: Housekeeping,
    job: Job,
    samples: Mutex<VecDeque<Sample>>,
}

impl History {
    pub(super) fn new(handle: MemoryHandle) -> Self {
        Self {
            housekeeping: handle.layer.housekeeping.clone(),
            handle,
            job: Job::default(),
            samples: Mutex::new(VecDeque::with_capacity(KEPT)),
        }
    }

    /// The samples, oldest first, and the present, which is not kept.
    pub(super) fn read(&self) -> (Vec<Sample>, Sample) {
        let now = Sample::take(&self.handle, self.housekeeping.now());
        let samples = lock(&self.samples).iter().copied().collect();
        (samples, now)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.job.cancel(&self.housekeeping);
    }
}

impl Chore for History {
    fn job(&self) -> &Job {
        &self.job
    }

    fn housekeeping(&self) -> &Housekeeping {
        &self.housekeeping
    }

    fn run(&self) {
        let sample = Sample::take(&self.handle, self.housekeeping.now());
        let mut samples = lock(&self.samples);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        Some(now + STEP)
    }
}
