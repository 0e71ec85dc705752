//! Readings of what is used, and what follows from them.

use std::time::{Duration, Instant};

use super::{
    events,
    figures::nanos,
    mode::LimitMode,
    policy::{Candidate, Reading, worst},
    process::{Process, State},
    source::Failed,
};
use crate::{
    account::{is_installed, process_usage},
    sync::{Ordering::Relaxed, try_lock},
};

/// How old the figures may be that a request is admitted by.
const FRESH: Duration = Duration::from_millis(5);

impl Process {
    /// Reads, if the figures are old.
    #[inline]
    pub(super) fn look_if_old(&self) {
        let now = self.now();
        if self.is_old(now) {
            self.look(now);
        }
    }

    /// The same at `now`, if the caller has read the clock.
    #[inline]
    pub(super) fn look_if_old_at(&self, now: Option<Instant>) {
        match now.filter(|_| self.housekeeping.has_real_clock()) {
            // The clock that was read may be a paused one, by which no figures are kept.
            Some(now) => {
                if self.is_old(now.saturating_duration_since(self.start)) {
                    self.look(self.now());
                }
            }
            None => self.look_if_old(),
        }
    }

    #[inline]
    fn is_old(&self, now: Duration) -> bool {
        const FRESH_NANOS: u64 = FRESH.as_nanos() as u64;

        let age = nanos(now).wrapping_sub(self.figures.read_at.load(Relaxed));
        // Another thread may have read a moment later. A reading that is much later is of a clock that went back.
        age.wrapping_add(FRESH_NANOS) > 2 * FRESH_NANOS
    }

    #[cold]
    #[inline(never)]
    pub(super) fn look(&self, now: Duration) {
        let Some(mut state) = try_lock(&self.state) else {
            return;
        };
        // First, so that others do not try meanwhile.
        self.figures.read_at.store(nanos(now), Relaxed);
        let reading = self.read(&mut state, now);
        let verdict = state.policy.read(&reading);
        if let Some(base) = verdict.base {
            state.base.add(now, base);
        }
        self.figures.publish(&reading, &verdict, state.base.get());
        let former = state.enter(verdict.stage, now);
        drop(state);
        if former != verdict.stage {
            events::stage_changed(former, verdict.stage, reading.used, reading.limit);
            self.relieve_soon();
        }
        if verdict.cancels {
            self.cancel_worst(&reading);
        }
        if self.job.needs_start() {
            self.start_job();
        }
    }

    fn read(&self, state: &mut State, now: Duration) -> Reading {
        let used = self.read_used(state, now);
        state.source = used.map(|(_, source)| source);
        let (admitted, refused) = self.sums.counts();
        Reading {
            at: now,
            limit: self.limit(),
            used: used.map(|(bytes, _)| bytes),
            held: is_installed().then(|| self.sums.held()),
            reserved: self.sums.reserved(),
            guessed: self.sums.guessed(),
            released: self.sums.released(),
            admitted,
            refused,
            hint: state.hint,
        }
    }

    fn read_used(&self, state: &mut State, now: Duration) -> Option<(u64, &'static str)> {
        for source in &mut state.sources {
            match source.read(now) {
                Ok(Some(read)) => return Some(read),
                Ok(None) => {}
                Err(Failed) => {
                    self.failed_readings.fetch_add(1, Relaxed);
                    events::source_failed();
                }
            }
        }
        if let Some(heap) = heap_bytes() {
            return Some((heap.saturating_add(state.overhead.get()), "heap"));
        }
        let resident = state.files.resident();
        if resident.is_none() {
            self.failed_readings.fetch_add(1, Relaxed);
            events::no_source();
        }
        Some((resident?, "resident"))
    }

    /// Cancels the candidate that holds the most.
    #[cold]
    fn cancel_worst(&self, reading: &Reading) {
        let enforces = self.mode() == LimitMode::Enforce;
        let listed = self
            .victims
            .filter_map(|listed| Some((listed.victim.clone(), listed.mean, listed.since)));
        let candidates = listed.iter().enumerate().filter_map(|(key, listed)| {
            // One that takes long to end must not stand in for all others.
            if listed.0.is_chosen(enforces) {
                return None;
            }
            Some(Candidate {
                key,
                held: listed.0.held()?,
                mean: listed.1,
                since: listed.2,
            })
        });
        let Some((victim, mean, _)) = worst(candidates).and_then(|key| listed.get(key)) else {
            return;
        };
        if !enforces {
            self.would_cancel.fetch_add(1, Relaxed);
            victim.count_would_cancel();
        } else {
            let held = victim.held().unwrap_or(0);
            if victim.cancel_for_memory() {
                self.cancelled.fetch_add(1, Relaxed);
                events::cancelled(held, *mean, reading.used, reading.limit);
            }
        }
    }
}

/// Live bytes of the heap, if they are counted.
pub(super) fn heap_bytes() -> Option<u64> {
    let usage = process_usage()?;
    let live = usage.bytes_allocated.wrapping_sub(usage.bytes_deallocated) as i64;
    Some(live.max(0) as u64)
}
