//! The limit of a process at work: readings, admissions, stages and victims.
//!
//! # Invariants
//!
//! 1. One thread at a time reads: the holder of the lock of `state`. Others do not wait for it, and go by the
//!    last verdict.
//! 2. Code of the application (sources, reclaim) is called by the reading thread or by the thread for hooks,
//!    and its panics are caught.

use std::{
    fmt,
    sync::Weak,
    time::{Duration, Instant},
};

use super::{
    events,
    figures::{Figures, known},
    files::{Files, Found},
    mode::LimitMode,
    policy::{LEAST_MEAN, Policy},
    pressure::{Pressure, Priority},
    snapshot::{LimitSnapshot, RefusedBy},
    source::{Custom, RecentLeast},
    stage::{Stage, Stages},
    sums::Sums,
};
use crate::{
    account::is_installed,
    counted::Counted,
    housekeeping::{Housekeeping, Job},
    slab::{Key, ShardedSlab},
    sync::{Arc, AtomicBool, AtomicU8, AtomicU64, Mutex, Ordering::Relaxed, lock},
};

/// How much of what was found is the limit.
pub(super) const FOUND_SHARE: f64 = 0.9;

/// The least limit.
pub(super) const LEAST_LIMIT: u64 = 1 << 20;

// `ProcessLimit::set_bytes` and `ProcessLimitBuilder::bytes` say so.
const _: () = assert!(LEAST_LIMIT == 1_048_576);

pub(super) type Reclaim = Arc<dyn Fn() + Send + Sync>;

/// What gives memory back when a stage asks for it.
pub(crate) trait Relief: Send + Sync {
    /// Called when the stage has changed to this one, and every second while it lasts. `spare` is the bytes
    /// that are left of the limit.
    fn relieve(&self, stage: Stage, spare: u64);
}

/// A request that can be cancelled to free memory.
pub(crate) trait Victim: Send + Sync {
    /// What it holds, if that is known.
    fn held(&self) -> Option<u64>;

    /// Whether it is cancelled, or was counted if the limit is not enforced. It is not chosen again.
    fn is_chosen(&self, enforces: bool) -> bool;

    /// Cancels it. Returns whether this is why it is cancelled.
    fn cancel_for_memory(&self) -> bool;

    /// It would be cancelled if the limit was enforced.
    fn count_would_cancel(&self);
}

/// A candidate for a cancellation.
pub(super) struct Listed {
    pub(super) victim: Counted<dyn Victim>,
    /// The mean of its route.
    pub(super) mean: u64,
    pub(super) since: Duration,
}

pub(super) struct Settings {
    pub(super) mode: LimitMode,
    pub(super) limit: Found,
    /// Whether the limit is looked for again.
    pub(super) searches: bool,
    pub(super) files: Files,
    pub(super) sources: Vec<Custom>,
    pub(super) reclaim: Option<Reclaim>,
    pub(super) stages: Stages,
    pub(super) min_stage_time: Duration,
    pub(super) retry_after: (Duration, Duration),
    pub(super) housekeeping: Housekeeping,
}

/// What all layers with this limit share.
pub(crate) struct Process {
    pub(super) mode: AtomicU8,
    pub(super) limit: AtomicU64,
    pub(super) stages: Stages,
    pub(super) retry_after: (Duration, Duration),
    pub(super) reclaim: Option<Reclaim>,
    pub(super) figures: Figures,
    pub(super) sums: Sums,
    pub(super) state: Mutex<State>,
    pub(super) victims: ShardedSlab<Listed>,
    pub(super) reliefs: Mutex<Vec<Weak<dyn Relief>>>,
    pub(super) refused: [AtomicU64; RefusedBy::ALL.len()],
    pub(super) cancelled: AtomicU64,
    pub(super) would_refuse: AtomicU64,
    pub(super) would_cancel: AtomicU64,
    pub(super) would_exceed: AtomicU64,
    pub(super) failed_readings: AtomicU64,
    pub(super) reclaims: Reclaims,
    pub(super) job: Job,
    pub(super) housekeeping: Housekeeping,
    pub(super) start: Instant,
    /// Itself, for what is scheduled.
    pub(super) this: Weak<Self>,
}

#[derive(Default)]
pub(super) struct Reclaims {
    pub(super) running: AtomicBool,
    pub(super) calls: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// What the reading thread needs.
pub(super) struct State {
    pub(super) policy: Policy,
    pub(super) files: Files,
    pub(super) sources: Vec<Custom>,
    pub(super) searches: bool,
    pub(super) limit_source: &'static str,
    pub(super) source: Option<&'static str>,
    /// Of resident memory that is not on the heap.
    pub(super) overhead: RecentLeast,
    pub(super) base: RecentLeast,
    pub(super) hint: Stage,
    pub(super) stage: Stage,
    pub(super) stage_since: Duration,
    pub(super) stage_times: [Duration; Stage::ALL.len()],
    pub(super) surveyed: Option<Duration>,
    pub(super) searched: Duration,
    pub(super) reclaimed: Option<Duration>,
}

impl Process {
    pub(super) fn new(settings: Settings) -> Arc<Self> {
        let Settings {
            mode,
            limit,
            searches,
            files,
            sources,
            reclaim,
            stages,
            min_stage_time,
            retry_after,
            housekeeping,
        } = settings;
        // A source of the application may block, and must not hold up deadlines.
        let housekeeping = if sources.is_empty() {
            housekeeping
        } else {
            housekeeping.hooks()
        };
        let state = State {
            policy: Policy::new(stages, min_stage_time),
            files,
            sources,
            searches,
            limit_source: limit.source,
            source: None,
            overhead: RecentLeast::new(),
            base: RecentLeast::new(),
            hint: Stage::Normal,
            stage: Stage::Normal,
            stage_since: Duration::ZERO,
            stage_times: [Duration::ZERO; Stage::ALL.len()],
            surveyed: None,
            searched: Duration::ZERO,
            reclaimed: None,
        };
        let process = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            mode: AtomicU8::new(mode.code()),
            limit: AtomicU64::new(limit.bytes),
            stages,
            retry_after,
            reclaim,
            figures: Figures::new(),
            sums: Sums::new(),
            state: Mutex::new(state),
            victims: ShardedSlab::default(),
            reliefs: Mutex::new(Vec::new()),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            cancelled: AtomicU64::new(0),
            would_refuse: AtomicU64::new(0),
            would_cancel: AtomicU64::new(0),
            would_exceed: AtomicU64::new(0),
            failed_readings: AtomicU64::new(0),
            reclaims: Reclaims::default(),
            job: Job::default(),
            start: housekeeping.now(),
            housekeeping,
        });
        if !is_installed() {
            events::not_installed();
        }
        process.survey_if_due(process.now());
        process.look(process.now());
        process
    }

    pub(crate) fn mode(&self) -> LimitMode {
        LimitMode::from_code(self.mode.load(Relaxed))
    }

    pub(super) fn set_mode(&self, mode: LimitMode) {
        self.mode.store(mode.code(), Relaxed);
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Sets the limit, which is not looked for any more.
    pub(super) fn set_limit(&self, bytes: u64) {
        {
            let mut state = lock(&self.state);
            (state.searches, state.limit_source) = (false, "set");
            self.limit.store(bytes, Relaxed);
        }
        self.sums.collect_credits_above(bytes);
        self.look(self.now());
    }

    pub(super) fn room(&self, priority: Priority) -> u64 {
        self.figures.rooms[priority.index()].load(Relaxed)
    }

    pub(super) fn stage(&self) -> Stage {
        let stage = usize::from(self.figures.stage.load(Relaxed));
        Stage::ALL.get(stage).copied().unwrap_or_default()
    }

    /// The level of the last reading.
    pub(super) fn level(&self) -> f64 {
        f64::from_bits(self.figures.level.load(Relaxed))
    }

    pub(super) fn least_base(&self) -> u64 {
        self.figures.least_base.load(Relaxed)
    }

    /// The reservations that would fit if no request was open, and other memory was what it was at least.
    pub(super) fn room_of_empty(&self) -> u64 {
        let most = (self.stages.admit * self.limit() as f64) as u64;
        most.saturating_sub(self.least_base())
    }

    pub(super) fn used(&self) -> Option<u64> {
        known(&self.figures.used)
    }

    /// When there may be room for `bytes`: what is missing by what is released per second, and up to a
    /// quarter more or less, so that clients do not come back all at once.
    pub(super) fn retry_after(&self, bytes: u64, room: u64) -> Duration {
        let missing = self.sums.missing(bytes, room) as f64;
        let rate = f64::from_bits(self.figures.release_rate.load(Relaxed));
        let (least, most) = self.retry_after;
        let wait = (missing / rate.max(1.0)).clamp(least.as_secs_f64(), most.as_secs_f64());
        // A number that differs from one refusal to the next is random enough.
        let number = self
            .refused
            .iter()
            .fold(0_u64, |sum, by| sum.wrapping_add(by.load(Relaxed)));
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let share = random as f64 / f64::from(1_u32 << 24);
        // To the nearest second. A float saturates.
        let seconds = (wait * (0.75 + 0.5 * share) + 0.5) as u64;
        Duration::from_secs(seconds.max(1))
    }

    /// Time since the start.
    #[inline]
    pub(super) fn now(&self) -> Duration {
        self.housekeeping
            .now()
            .saturating_duration_since(self.start)
    }

    pub(super) fn count_refused(&self, by: RefusedBy) {
        self.refused[by.index()].fetch_add(1, Relaxed);
        self.sums.count_refused(self.sums.here());
    }

    pub(crate) fn add_relief(&self, relief: Weak<dyn Relief>) {
        let mut reliefs = lock(&self.reliefs);
        reliefs.retain(|relief| relief.strong_count() > 0);
        reliefs.push(relief);
    }

    /// Takes a request from the list of candidates.
    pub(super) fn unlist(&self, key: Key) {
        drop(self.victims.remove(key));
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.look_if_old();
        Pressure {
            level: self.level() as f32,
            stage: self.stage(),
            used: self.used(),
            limit: self.limit(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.look_if_old();
        self.mode() != LimitMode::Enforce || self.figures.is_ready.load(Relaxed)
    }

    pub(super) fn snapshot(&self) -> LimitSnapshot {
        self.look_if_old();
        let now = self.now();
        let state = lock(&self.state);
        let mut stage_times = state.stage_times;
        let current = now.saturating_sub(state.stage_since);
        stage_times[state.stage.index()] += current;
        LimitSnapshot {
            mode: self.mode(),
            limit: self.limit(),
            limit_source: state.limit_source,
            used: self.used(),
            source: state.source,
            held: is_installed().then(|| self.sums.held()),
            base: known(&self.figures.base),
            reserved: self.sums.reserved(),
            k: f64::from_bits(self.figures.k.load(Relaxed)),
            stage: state.stage,
            stage_times,
            admitted: self.sums.counts().0,
            refused: std::array::from_fn(|by| self.refused[by].load(Relaxed)),
            candidates: self.victims.len(),
            cancelled: self.cancelled.load(Relaxed),
            would_refuse: self.would_refuse.load(Relaxed),
            would_cancel: self.would_cancel.load(Relaxed),
            would_exceed: self.would_exceed.load(Relaxed),
            failed_readings: self.failed_readings.load(Relaxed),
            reclaims: self.reclaims.calls.load(Relaxed),
            reclaimed_bytes: self.reclaims.bytes.load(Relaxed),
        }
    }
}

impl State {
    /// Enters a stage. Returns the former one.
    pub(super) fn enter(&mut self, stage: Stage, now: Duration) -> Stage {
        let former = std::mem::replace(&mut self.stage, stage);
        if former != stage {
            let passed = now.saturating_sub(self.stage_since);
            self.stage_times[former.index()] += passed;
            self.stage_since = now;
        }
        former
    }
}

/// Whether a request of a route with this mean that holds so much is a candidate.
pub(super) const fn is_large(held: u64, mean: u64) -> bool {
    let four = mean.saturating_mul(4);
    held > if four > LEAST_MEAN { four } else { LEAST_MEAN }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("mode", &self.mode())
            .field("limit", &self.limit())
            .field("stage", &self.stage())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}
