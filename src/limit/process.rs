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
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Weak,
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use super::{
    events,
    files::{Files, Found},
    mode::LimitMode,
    policy::{Candidate, LEAST_MEAN, Policy, Reading, Verdict, worst},
    pressure::{Pressure, Priority},
    snapshot::{LimitSnapshot, RefusedBy},
    source::{Custom, Failed, RecentLeast},
    stage::{Stage, Stages},
    sums::Sums,
};
use crate::{
    account::{is_installed, process_usage},
    counted::Counted,
    housekeeping::{self, Chore, Housekeeping, Job},
    slab::{Key, ShardedSlab, thread_shard},
    sync::{Arc, AtomicBool, AtomicU8, AtomicU64, Mutex, Ordering::Relaxed, lock, try_lock},
};

/// How old the figures may be that a request is admitted by.
const FRESH: Duration = Duration::from_millis(5);

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

/// How much of what was found is the limit.
pub(super) const FOUND_SHARE: f64 = 0.9;

/// The least limit.
pub(super) const LEAST_LIMIT: u64 = 1 << 20;

// `ProcessLimit::set_bytes` and `ProcessLimitBuilder::bytes` say so.
const _: () = assert!(LEAST_LIMIT == 1_048_576);

/// Stalls of this share of the time ask for a stage.
const STALLS: [(f64, Stage); 2] = [(0.25, Stage::BrownOut), (0.10, Stage::Trim)];

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

    /// Cancels it.
    fn cancel_for_memory(&self);

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
    mode: AtomicU8,
    limit: AtomicU64,
    stages: Stages,
    retry_after: (Duration, Duration),
    reclaim: Option<Reclaim>,
    figures: Figures,
    pub(super) sums: Sums,
    state: Mutex<State>,
    pub(super) victims: ShardedSlab<Listed>,
    reliefs: Mutex<Vec<Weak<dyn Relief>>>,
    refused: [AtomicU64; RefusedBy::ALL.len()],
    cancelled: AtomicU64,
    pub(super) would_refuse: AtomicU64,
    would_cancel: AtomicU64,
    failed_readings: AtomicU64,
    reclaims: Reclaims,
    job: Job,
    housekeeping: Housekeeping,
    start: Instant,
    /// Itself, for what is scheduled.
    this: Weak<Self>,
}

/// The last verdict, for all threads.
struct Figures {
    rooms: [AtomicU64; Priority::ALL.len()],
    stage: AtomicU8,
    /// Nanoseconds since the start, plus one; zero before the first reading.
    read_at: AtomicU64,
    /// `u64::MAX` if it is not known.
    used: AtomicU64,
    base: AtomicU64,
    /// Bits of floats.
    k: AtomicU64,
    level: AtomicU64,
    release_rate: AtomicU64,
    is_ready: AtomicBool,
    /// The least base of the last ten minutes.
    least_base: AtomicU64,
}

#[derive(Default)]
struct Reclaims {
    running: AtomicBool,
    calls: AtomicU64,
    bytes: AtomicU64,
}

/// What the reading thread needs.
struct State {
    policy: Policy,
    files: Files,
    sources: Vec<Custom>,
    searches: bool,
    limit_source: &'static str,
    source: Option<&'static str>,
    /// Of resident memory that is not on the heap.
    overhead: RecentLeast,
    base: RecentLeast,
    hint: Stage,
    stage: Stage,
    stage_since: Duration,
    stage_times: [Duration; Stage::ALL.len()],
    surveyed: Option<Duration>,
    searched: Duration,
    reclaimed: Option<Duration>,
}

const UNKNOWN: u64 = u64::MAX;

fn known(word: &AtomicU64) -> Option<u64> {
    Some(word.load(Relaxed)).filter(|value| *value != UNKNOWN)
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
        self.look(self.now());
    }

    pub(super) fn room(&self, priority: Priority) -> u64 {
        self.figures.rooms[priority.index()].load(Relaxed)
    }

    pub(super) fn stage(&self) -> Stage {
        let stage = usize::from(self.figures.stage.load(Relaxed));
        Stage::ALL.get(stage).copied().unwrap_or_default()
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
        let wait = Duration::try_from_secs_f64(missing / rate.max(1.0)).unwrap_or(most);
        let wait = wait.clamp(least, most).as_secs_f64();
        // A number that differs from one refusal to the next is random enough.
        let number = self
            .refused
            .iter()
            .fold(0_u64, |sum, by| sum.wrapping_add(by.load(Relaxed)));
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let share = random as f64 / f64::from(1_u32 << 24);
        let seconds = (wait * (0.75 + 0.5 * share)).round();
        Duration::from_secs_f64(seconds.max(1.0))
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
        self.sums.count_refused(thread_shard());
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

    /// Reads, if the figures are old.
    #[inline]
    pub(super) fn look_if_old(&self) {
        let now = self.now();
        let read_at = self.figures.read_at.load(Relaxed);
        // One that is later than now is of a clock that went back.
        if nanos(now).wrapping_sub(read_at) > FRESH.as_nanos() as u64 {
            self.look(now);
        }
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

    #[cold]
    fn start_job(&self) {
        let at = self.housekeeping.now().checked_add(CALM);
        if let (Some(this), Some(at)) = (self.this.upgrade(), at) {
            housekeeping::start(&this, at);
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
        let listed = self
            .victims
            .filter_map(|listed| Some((listed.victim.clone(), listed.mean, listed.since)));
        let candidates = listed.iter().enumerate().filter_map(|(key, listed)| {
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
        if self.mode() != LimitMode::Enforce {
            self.would_cancel.fetch_add(1, Relaxed);
            victim.count_would_cancel();
        } else {
            self.cancelled.fetch_add(1, Relaxed);
            let held = victim.held().unwrap_or(0);
            events::cancelled(held, *mean, reading.used, reading.limit);
            victim.cancel_for_memory();
        }
    }

    /// Has everything that can give memory back do so, on the housekeeping's thread.
    fn relieve_soon(&self) {
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
    fn survey_if_due(&self, now: Duration) -> bool {
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

    pub(crate) fn pressure(&self) -> Pressure {
        self.look_if_old();
        Pressure {
            level: f64::from_bits(self.figures.level.load(Relaxed)) as f32,
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
            cancelled: self.cancelled.load(Relaxed),
            would_refuse: self.would_refuse.load(Relaxed),
            would_cancel: self.would_cancel.load(Relaxed),
            failed_readings: self.failed_readings.load(Relaxed),
            reclaims: self.reclaims.calls.load(Relaxed),
            reclaimed_bytes: self.reclaims.bytes.load(Relaxed),
        }
    }
}

impl State {
    /// Enters a stage. Returns the former one.
    fn enter(&mut self, stage: Stage, now: Duration) -> Stage {
        let former = std::mem::replace(&mut self.stage, stage);
        if former != stage {
            let passed = now.saturating_sub(self.stage_since);
            self.stage_times[former.index()] += passed;
            self.stage_since = now;
        }
        former
    }
}

impl Figures {
    fn new() -> Self {
        let word = AtomicU64::new;
        Self {
            rooms: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            stage: AtomicU8::new(0),
            read_at: word(0),
            used: word(UNKNOWN),
            base: word(UNKNOWN),
            k: word(1_f64.to_bits()),
            level: word(0),
            release_rate: word(0),
            is_ready: AtomicBool::new(true),
            least_base: word(0),
        }
    }

    // Relaxed: figures. A reader may see some of one verdict and others of the next.
    fn publish(&self, reading: &Reading, verdict: &Verdict, least_base: u64) {
        for (room, bytes) in self.rooms.iter().zip(verdict.rooms) {
            room.store(bytes, Relaxed);
        }
        self.stage.store(verdict.stage.index() as u8, Relaxed);
        self.used.store(reading.used.unwrap_or(UNKNOWN), Relaxed);
        self.base.store(verdict.base.unwrap_or(UNKNOWN), Relaxed);
        self.k.store(verdict.k.to_bits(), Relaxed);
        self.level.store(verdict.level.to_bits(), Relaxed);
        self.release_rate
            .store(verdict.release_rate.to_bits(), Relaxed);
        self.is_ready.store(verdict.is_ready, Relaxed);
        self.least_base.store(least_base, Relaxed);
    }
}

/// Nanoseconds, never zero.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Live bytes of the heap, if they are counted.
fn heap_bytes() -> Option<u64> {
    let usage = process_usage()?;
    let live = usage.bytes_allocated.wrapping_sub(usage.bytes_deallocated) as i64;
    Some(live.max(0) as u64)
}

/// Whether a request of a route with this mean that holds so much is a candidate.
pub(super) const fn is_large(held: u64, mean: u64) -> bool {
    let four = mean.saturating_mul(4);
    held > if four > LEAST_MEAN { four } else { LEAST_MEAN }
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
