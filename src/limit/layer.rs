//! What one layer has of the limit: it admits its requests, and learns what its routes hold.

use std::time::{Duration, Instant};

use super::{
    claim::Claim,
    learned::{Entry, LearnedPeaks},
    mode::LimitMode,
    policy::LEAST_MEAN,
    pressure::{Pressure, Priority},
    process::{Listed, Process, Relief, Victim, is_large},
    snapshot::RefusedBy,
    stage::Stage,
    warning::Warning,
};
use crate::{
    counted::Counted,
    route::RouteKey,
    sync::{Arc, Ordering::Relaxed},
};

/// By default a request may hold this part of the limit.
const REQUEST_SHARE: u64 = 8;

// `MemoryLayerBuilder::request_limit` says so.
const _: () = assert!(REQUEST_SHARE == 8);

/// A request of a route without closed requests is taken to hold this part of the limit.
const UNKNOWN_SHARE: u64 = 64;

/// A change by this much is a reason to read the process's memory again.
const LARGE_CHANGE: u64 = 64 << 10;

/// The limit of the process, for the requests of one layer.
pub(crate) struct LayerLimit {
    process: Arc<Process>,
    pub(crate) peaks: LearnedPeaks,
}

/// A request that is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) by: RefusedBy,
    /// What requests of its route hold.
    pub(crate) asked: u64,
    pub(crate) used: Option<u64>,
    pub(crate) limit: u64,
    /// When there may be room.
    pub(crate) retry_after: Duration,
}

impl LayerLimit {
    /// What a request holds is looked at again when it has changed by this much, so that small requests share
    /// nothing.
    pub(crate) const NOTABLE: u64 = 4 << 10;

    pub(super) fn new(process: Arc<Process>, routes: usize) -> Self {
        Self {
            process,
            peaks: LearnedPeaks::new(routes),
        }
    }

    pub(crate) const fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(crate) fn add_relief(&self, relief: std::sync::Weak<dyn Relief>) {
        self.process.add_relief(relief);
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.process.pressure()
    }

    /// What a request may hold, unless that was set.
    pub(crate) fn request_limit(&self) -> u64 {
        self.process.limit() / REQUEST_SHARE
    }

    /// From 0 to 1: how much less idle bodies may be. Zero if nothing is enforced.
    pub(crate) fn level(&self) -> f64 {
        if self.enforces() {
            self.process.level()
        } else {
            0.0
        }
    }

    /// Whether requests are ended that hold more than they may.
    pub(crate) fn enforces(&self) -> bool {
        self.process.mode() == LimitMode::Enforce
    }

    fn limit_of_unknown(&self) -> u64 {
        self.process.limit() / UNKNOWN_SHARE
    }

    /// What a request of the route reserves, and whether that is a guess. Never zero, so that the sum says
    /// whether requests are open.
    fn reserves(&self, key: RouteKey) -> (u64, bool) {
        self.reserves_of(self.peaks.get(key), key)
    }

    /// The same of a route with these figures.
    #[inline]
    fn reserves_of(&self, entry: Option<&Entry>, key: RouteKey) -> (u64, bool) {
        let known = self.peaks.expected_of(entry, key);
        let bytes = known.unwrap_or_else(|| self.limit_of_unknown()).max(1);
        (bytes, known.is_none())
    }

    /// Admits a request, whose claim is open from then on, or refuses it.
    ///
    /// A priority of `None` is that of the route's policy, if one was seen. `now` is the time, if the caller
    /// knows it.
    #[inline]
    pub(crate) fn admit(
        &self,
        claim: &Claim,
        key: RouteKey,
        priority: Option<Priority>,
        now: Option<Instant>,
    ) -> Result<Option<Warning>, Refusal> {
        let process = &*self.process;
        if process.mode() == LimitMode::Off {
            return Ok(None);
        }
        process.look_if_old_at(now);
        let entry = self.peaks.get(key);
        let priority = priority.or_else(|| entry?.priority());
        let priority = priority.unwrap_or_default();
        let (bytes, guessed) = self.reserves_of(entry, key);
        let (room, shard) = (process.room(priority), process.sums.here());
        let warning = if process.sums.reserve(shard, bytes, room, process.limit()) {
            None
        } else {
            self.admit_without_room(key, priority, bytes)?
        };
        process.sums.count_admitted(shard);
        claim.open(bytes, guessed);
        if guessed {
            process.sums.add_guessed(shard, bytes);
        }
        Ok(warning)
    }

    #[cold]
    #[inline(never)]
    fn admit_without_room(
        &self,
        key: RouteKey,
        priority: Priority,
        bytes: u64,
    ) -> Result<Option<Warning>, Refusal> {
        let process = &*self.process;
        let (room, limit) = (process.room(priority), process.limit());
        // Other threads' credits may have what is missing.
        if process.sums.fits_without_credits(bytes, room, limit) {
            process.sums.collect_credits();
            let shard = process.sums.here();
            if process.sums.reserve(shard, bytes, room, limit) {
                return Ok(None);
            }
        }
        let by = if room == 0 && process.stage() >= Stage::Refuse {
            RefusedBy::Stage
        } else if room > 0 && bytes > process.room_of_empty() {
            // It is admitted alone, or never.
            let smallest = self.peaks.entry(key).smallest().unwrap_or(0);
            if process.least_base().saturating_add(smallest) > limit {
                RefusedBy::Size
            } else if process.sums.reserved() == 0 {
                process.sums.force(bytes);
                return Ok(None);
            } else {
                RefusedBy::Prediction
            }
        } else {
            RefusedBy::Prediction
        };
        if process.mode() != LimitMode::Enforce {
            process.sums.force(bytes);
            return Ok(self.would_refuse(key, by));
        }
        if bug!("refused-counted-as-open") {
            process.sums.force(bytes);
        }
        process.count_refused(by);
        Err(Refusal {
            by,
            asked: bytes,
            used: process.used(),
            limit,
            retry_after: process.retry_after(bytes, room),
        })
    }

    #[cold]
    fn would_refuse(&self, key: RouteKey, by: RefusedBy) -> Option<Warning> {
        let process = &*self.process;
        let entry = self.peaks.entry(key);
        entry.would_refuse.fetch_add(1, Relaxed);
        process.would_refuse.fetch_add(1, Relaxed);
        self.warns(entry).then(|| Warning::WouldRefuse {
            method: key.method,
            by,
            used: process.used(),
            limit: process.limit(),
        })
    }

    #[cold]
    fn would_exceed(&self, key: RouteKey, peak: Option<u64>, limit: u64) -> Option<Warning> {
        let entry = self.peaks.entry(key);
        entry.would_exceed.fetch_add(1, Relaxed);
        self.process.would_exceed.fetch_add(1, Relaxed);
        self.warns(entry).then_some(Warning::WouldExceed {
            method: key.method,
            peak,
            limit,
        })
    }

    /// Whether this is the first warning of a route in this minute.
    fn warns(&self, entry: &Entry) -> bool {
        let process = &*self.process;
        process.mode() == LimitMode::Warn && entry.warns(process.now().as_secs() / 60)
    }

    /// A request of the route would be cancelled if the limit was enforced.
    pub(crate) fn count_would_cancel(&self, key: RouteKey) {
        self.peaks.entry(key).would_cancel.fetch_add(1, Relaxed);
    }

    /// A policy inside of the layer has set the priority of the route's requests, for those to come.
    pub(crate) fn learn_priority(&self, key: RouteKey, priority: Priority) {
        self.peaks.set_priority(key, priority);
    }

    /// An open request turned out to be of this route.
    pub(crate) fn relabelled(&self, claim: &Claim, key: RouteKey) {
        if claim.reserved.get().is_none() {
            return;
        }
        let (bytes, guessed) = self.reserves(key);
        let sums = &self.process.sums;
        let shard = sums.here();
        // Reserved first, so that the sum is never too small.
        sums.force(bytes);
        let Some(former) = claim.reserved.replace_marked(bytes, guessed) else {
            sums.release(shard, bytes, self.process.limit());
            return;
        };
        sums.release(shard, former.value, self.process.limit());
        let of = |guessed: bool, bytes: u64| if guessed { bytes } else { 0 };
        let (before, after) = (of(former.marked, former.value), of(guessed, bytes));
        if before != after {
            sums.add_guessed(shard, after.wrapping_sub(before));
        }
    }

    /// Whether what an open request holds has changed enough for [`changed`](Self::changed).
    #[inline]
    pub(crate) fn has_changed(claim: &Claim, held: Option<u64>) -> bool {
        let (Some(held), Some(before)) = (held, claim.held.get()) else {
            return false;
        };
        held.abs_diff(before) >= Self::NOTABLE
    }

    /// What an open request holds may have changed.
    ///
    /// `victim` is its handle, for the list of those that may be cancelled; `since` is its age.
    #[inline]
    pub(crate) fn changed(
        &self,
        claim: &Claim,
        key: RouteKey,
        held: Option<u64>,
        victim: impl FnOnce() -> (Counted<dyn Victim>, Duration),
    ) {
        if let Some(held) = held.filter(|held| Self::has_changed(claim, Some(*held))) {
            self.note(claim, key, held, victim);
        }
    }

    #[inline(never)]
    fn note(
        &self,
        claim: &Claim,
        key: RouteKey,
        held: u64,
        victim: impl FnOnce() -> (Counted<dyn Victim>, Duration),
    ) {
        let Some(before) = claim.held.replace(held) else {
            return;
        };
        let process = &*self.process;
        let sums = &process.sums;
        sums.add_held(sums.here(), held.wrapping_sub(before));
        if held > LEAST_MEAN {
            let mean = self.peaks.expected(key).unwrap_or(0);
            if is_large(held, mean) {
                claim.list(|| {
                    let (victim, age) = victim();
                    process.victims.insert(Listed {
                        victim,
                        mean,
                        since: process.now().saturating_sub(age),
                    })
                });
            }
        }
        if held.saturating_sub(before) >= LARGE_CHANGE {
            process.look_if_old();
        }
    }

    /// A request has closed, which held `peak` bytes at its height.
    ///
    /// `is_alone` says that no other thread has it. `random` is a number that differs from one to the next.
    #[inline]
    pub(crate) fn closed(
        &self,
        claim: &Claim,
        key: RouteKey,
        peak: Option<u64>,
        is_alone: bool,
        random: u64,
    ) -> Option<Warning> {
        let process = &*self.process;
        let (reserved, held) = claim.close(is_alone, |place| process.unlist(place));
        let watched = claim.take_watched_limit();
        let exceeded = watched.filter(|limit| peak.is_some_and(|peak| peak > *limit));
        let exceeded = exceeded.filter(|_| process.mode() != LimitMode::Off);
        let warning = exceeded.and_then(|limit| self.would_exceed(key, peak, limit));
        if reserved.value == 0 {
            // Not admitted, or the limit was off.
            return warning;
        }
        let shard = process.sums.here();
        if held != 0 {
            process.sums.add_held(shard, held.wrapping_neg());
        }
        process.sums.release(shard, reserved.value, process.limit());
        if reserved.marked {
            process
                .sums
                .add_guessed(shard, reserved.value.wrapping_neg());
        }
        if let Some(peak) = peak {
            self.peaks.learn(key, peak, random);
        }
        warning
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::{
        housekeeping::ManualClock,
        limit::{LimitSnapshot, ProcessLimit},
        route::KnownMethod,
        sync::{AtomicU64, Mutex, lock},
    };

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 64 * MIB;

    /// A process whose use and clock the test sets.
    struct Fixture {
        limit: ProcessLimit,
        layer: LayerLimit,
        used: Arc<AtomicU64>,
        clock: ManualClock,
    }

    impl Fixture {
        fn new(mode: LimitMode) -> Self {
            let (used, clock) = (Arc::new(AtomicU64::new(MIB)), ManualClock::new());
            let source = {
                let used = Arc::clone(&used);
                move || Some(used.load(Relaxed))
            };
            let builder = ProcessLimit::builder().bytes(LIMIT).clock(&clock);
            let limit = builder.source(source).mode(mode).build().unwrap();
            Self {
                layer: limit.for_layer(8),
                limit,
                used,
                clock,
            }
        }

        fn uses(&self, bytes: u64) -> LimitSnapshot {
            self.used.store(bytes, Relaxed);
            self.clock.advance(Duration::from_millis(10));
            self.limit.snapshot()
        }
    }

    const fn key(route: usize) -> RouteKey {
        RouteKey {
            route,
            method: KnownMethod::Get,
        }
    }

    /// A request that can be cancelled.
    struct Held {
        bytes: u64,
        cancelled: AtomicU64,
        would: AtomicU64,
    }

    fn holds(bytes: u64) -> Counted<Held> {
        Counted::new(Held {
            bytes,
            cancelled: AtomicU64::new(0),
            would: AtomicU64::new(0),
        })
    }

    impl Victim for Held {
        fn held(&self) -> Option<u64> {
            Some(self.bytes)
        }

        fn is_chosen(&self, enforces: bool) -> bool {
            let chosen = if enforces {
                &self.cancelled
            } else {
                &self.would
            };
            chosen.load(Relaxed) > 0
        }

        fn cancel_for_memory(&self) -> bool {
            self.cancelled.fetch_add(1, Relaxed) == 0
        }

        fn count_would_cancel(&self) {
            self.would.fetch_add(1, Relaxed);
        }
    }

    /// Random requests that open, move, grow, shrink and close, and after each step the sums are those of a
    /// list of the open ones.
    #[test]
    fn the_sums_are_those_of_the_open_requests_at_each_step_and_zero_at_the_end() {
        struct Open {
            claim: Claim,
            /// Of what is reserved, and how much of it is a guess.
            reserved: (u64, u64),
            held: u64,
        }
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let reserves = |layer: &LayerLimit, route| {
            let (bytes, guessed) = layer.reserves(key(route));
            (bytes, if guessed { bytes } else { 0 })
        };
        for mode in [LimitMode::Enforce, LimitMode::Observe] {
            let it = Fixture::new(mode);
            let (process, layer) = (it.layer.process(), &it.layer);
            let mut open: Vec<Open> = Vec::new();
            for step in 0..20_000 {
                let route = 1 + next(6) as usize;
                match next(10) {
                    0..4 => {
                        let expected = reserves(layer, route);
                        let claim = Claim::closed();
                        if layer.admit(&claim, key(route), None, None).is_ok() {
                            open.push(Open {
                                claim,
                                reserved: expected,
                                held: 0,
                            });
                        }
                    }
                    4 if !open.is_empty() => {
                        let at = next(open.len() as u64) as usize;
                        open[at].reserved = reserves(layer, route);
                        layer.relabelled(&open[at].claim, key(route));
                    }
                    5 | 6 if !open.is_empty() => {
                        let at = next(open.len() as u64) as usize;
                        let most = next(22);
                        let held = next(1 << most);
                        layer.changed(&open[at].claim, key(route), Some(held), || {
                            (holds(held).into_victim(), Duration::ZERO)
                        });
                        if held.abs_diff(open[at].held) >= LayerLimit::NOTABLE {
                            open[at].held = held;
                        }
                    }
                    7 | 8 if !open.is_empty() => {
                        let at = next(open.len() as u64) as usize;
                        let ends = open.swap_remove(at);
                        layer.closed(
                            &ends.claim,
                            key(route),
                            Some(next(1 << 18)),
                            next(2) == 0,
                            next(u64::MAX),
                        );
                        // Ended twice, or moved after its end, as tasks that outlive a request do.
                        layer.closed(&ends.claim, key(route), Some(1), false, 0);
                        layer.relabelled(&ends.claim, key(route));
                        layer.changed(&ends.claim, key(route), Some(MIB), || unreachable!());
                    }
                    _ => {
                        it.uses(1 + next(LIMIT / 10 * 11));
                    }
                }
                let sum = |of: fn(&Open) -> u64| open.iter().map(of).sum::<u64>();
                assert_eq!(
                    (process.sums.reserved(), process.sums.guessed()),
                    (sum(|open| open.reserved.0), sum(|open| open.reserved.1)),
                    "step {step}"
                );
                assert_eq!(
                    process.sums.exactly_held() as u64,
                    sum(|open| open.held),
                    "step {step}"
                );
            }
            for open in open.drain(..) {
                layer.closed(&open.claim, key(1), None, false, 0);
            }
            assert_eq!(
                (process.sums.reserved(), process.sums.guessed()),
                (0, 0),
                "reserved and guessed"
            );
            assert_eq!(process.sums.exactly_held(), 0);
            assert_eq!(
                process.sums.exactly_guessed(),
                0,
                "not below zero, which would be shown as zero"
            );
            assert_eq!(process.victims.len(), 0, "no request is listed");
        }
    }

    #[test]
    fn a_request_of_an_unknown_route_reserves_a_sixty_fourth_and_a_later_one_the_mean() {
        let it = Fixture::new(LimitMode::Enforce);
        let claim = Claim::closed();
        it.layer.admit(&claim, key(2), None, None).unwrap();
        assert_eq!(it.limit.snapshot().reserved, LIMIT / 64);
        it.layer.closed(&claim, key(2), Some(5000), false, 0);
        it.layer.admit(&claim, key(2), None, None).unwrap();
        assert_eq!(it.limit.snapshot().reserved, 5000);
        it.layer.relabelled(&claim, key(3));
        assert_eq!(it.limit.snapshot().reserved, LIMIT / 64);
        it.layer.closed(&claim, key(3), Some(0), false, 0);
        it.layer.admit(&claim, key(3), None, None).unwrap();
        assert_eq!(
            it.limit.snapshot().reserved,
            1,
            "a route that holds nothing"
        );
    }

    #[test]
    fn thresholds_refuse_by_priority_and_a_policy_sets_that_of_later_requests() {
        let it = Fixture::new(LimitMode::Enforce);
        let admits = |priority| {
            it.layer
                .admit(&Claim::closed(), key(2), priority, None)
                .is_ok()
        };
        let all =
            || [Priority::Low, Priority::Normal, Priority::Critical].map(|it| admits(Some(it)));
        it.uses(LIMIT / 2);
        assert_eq!(all(), [true; 3]);
        it.uses(LIMIT / 100 * 75);
        assert_eq!(all(), [false, true, true]);
        assert!(admits(None));
        it.layer.learn_priority(key(2), Priority::Low);
        assert!(!admits(None), "its policy says low");
        it.uses(LIMIT / 100 * 92);
        assert_eq!(all(), [false, false, true]);
        it.uses(LIMIT);
        assert_eq!(all(), [false; 3]);
        assert_eq!(
            it.limit.snapshot().refused.iter().sum::<u64>(),
            1 + 1 + 2 + 3
        );
    }

    #[test]
    fn observing_refuses_and_cancels_nothing_and_counts_what_it_would_have() {
        for mode in [LimitMode::Observe, LimitMode::Warn] {
            let it = Fixture::new(mode);
            it.uses(LIMIT + 1);
            let claim = Claim::closed();
            for _ in 0..3 {
                it.layer.admit(&claim, key(2), None, None).unwrap();
            }
            let entry = it.layer.peaks.get(key(2)).unwrap();
            assert_eq!(entry.would_refuse(), 3);
            let victim = holds(9 * MIB);
            it.layer.changed(&claim, key(2), Some(9 * MIB), || {
                (victim.clone().into_victim(), Duration::ZERO)
            });
            it.uses(LIMIT + 2);
            assert_eq!(
                (victim.cancelled.load(Relaxed), victim.would.load(Relaxed)),
                (0, 1)
            );
            let snapshot = it.limit.snapshot();
            assert_eq!((snapshot.refused, snapshot.cancelled), ([0; 3], 0));
            assert!(it.limit.is_ready());
            assert_eq!(it.layer.pressure().stage, Stage::Cancel, "it says so");
        }
    }

    #[test]
    fn off_admits_all_and_counts_nothing() {
        let it = Fixture::new(LimitMode::Off);
        it.uses(2 * LIMIT);
        let claim = Claim::closed();
        it.layer.admit(&claim, key(2), None, None).unwrap();
        it.layer
            .changed(&claim, key(2), Some(LIMIT), || unreachable!());
        it.layer.closed(&claim, key(2), Some(LIMIT), false, 0);
        let snapshot = it.limit.snapshot();
        assert_eq!(
            (snapshot.reserved, snapshot.admitted, snapshot.refused),
            (0, 0, [0; 3])
        );
        assert!(it.layer.peaks.get(key(2)).is_none());
    }

    #[test]
    fn a_mode_that_changes_while_requests_are_open_leaves_nothing_behind() {
        let it = Fixture::new(LimitMode::Enforce);
        let claims = [(); 4].map(|()| Claim::closed());
        for (claim, mode) in claims.iter().zip([
            LimitMode::Off,
            LimitMode::Observe,
            LimitMode::Off,
            LimitMode::Enforce,
        ]) {
            it.layer.admit(claim, key(2), None, None).unwrap();
            it.limit.set_mode(mode);
        }
        for claim in &claims {
            it.layer.closed(claim, key(2), Some(1), false, 0);
        }
        assert_eq!(it.limit.snapshot().reserved, 0);
    }

    /// One per 10 ms, the one that holds the most compared with its route first.
    #[test]
    fn above_the_limit_the_worst_is_cancelled_and_leaves_the_list_when_it_closes() {
        let it = Fixture::new(LimitMode::Enforce);
        let claims: Vec<_> = (0..3).map(|_| Claim::closed()).collect();
        let victims: Vec<_> = [3, 9, 5].map(|held| holds(held * MIB)).into();
        for (claim, victim) in claims.iter().zip(&victims) {
            it.layer.admit(claim, key(2), None, None).unwrap();
            for _ in 0..2 {
                it.layer.changed(claim, key(2), victim.held(), || {
                    (victim.clone().into_victim(), Duration::ZERO)
                });
            }
        }
        let cancelled = || -> Vec<u64> {
            victims
                .iter()
                .map(|victim| victim.cancelled.load(Relaxed))
                .collect()
        };
        assert_eq!(it.layer.process().victims.len(), 3);
        it.uses(LIMIT);
        assert_eq!(cancelled(), [0, 0, 0]);
        it.uses(LIMIT + 1);
        assert_eq!(cancelled(), [0, 1, 0]);
        it.layer.closed(&claims[1], key(2), None, false, 0);
        assert_eq!(it.layer.process().victims.len(), 2);
        it.uses(LIMIT + 1);
        assert_eq!(cancelled(), [0, 1, 1]);
        for claim in &claims {
            it.layer.closed(claim, key(2), None, false, 0);
        }
        assert_eq!(
            (
                it.layer.process().victims.len(),
                it.limit.snapshot().cancelled
            ),
            (0, 2)
        );
    }

    #[test]
    fn a_request_that_takes_long_to_end_is_chosen_once_and_the_next_after_it() {
        for mode in [LimitMode::Enforce, LimitMode::Observe, LimitMode::Warn] {
            let it = Fixture::new(mode);
            let claims: Vec<_> = (0..3).map(|_| Claim::closed()).collect();
            let victims: Vec<_> = [3, 9, 5].map(|held| holds(held * MIB)).into();
            for (claim, victim) in claims.iter().zip(&victims) {
                it.layer.admit(claim, key(2), None, None).unwrap();
                it.layer.changed(claim, key(2), victim.held(), || {
                    (victim.clone().into_victim(), Duration::ZERO)
                });
            }
            let chosen = || {
                let chosen = |victim: &Counted<Held>| {
                    let (cancelled, would) = (&victim.cancelled, &victim.would);
                    cancelled.load(Relaxed) + would.load(Relaxed)
                };
                let snapshot = it.limit.snapshot();
                let counts: Vec<_> = victims.iter().map(chosen).collect();
                (counts, snapshot.cancelled + snapshot.would_cancel)
            };
            for (counts, sum) in [
                ([0, 1, 0], 1),
                ([0, 1, 1], 2),
                ([1, 1, 1], 3),
                ([1, 1, 1], 3),
            ] {
                it.uses(LIMIT + 1);
                assert_eq!(chosen(), (counts.into(), sum), "{mode:?}");
            }
        }
    }

    #[test]
    fn a_thousand_unknown_routes_share_the_bound_for_unknown_ones() {
        // Everything beyond the bound of the table is one route, which learns.
        let it = Fixture::new(LimitMode::Enforce);
        let claims: Vec<_> = (0..10_000).map(|_| Claim::closed()).collect();
        for claim in &claims {
            let _ = it.layer.admit(claim, key(crate::route::OTHER), None, None);
        }
        assert_eq!(
            it.limit.snapshot().admitted,
            10_000,
            "without an allocator nothing is predicted"
        );
        for claim in &claims {
            it.layer
                .closed(claim, key(crate::route::OTHER), Some(100), false, 0);
        }
        assert_eq!(it.layer.reserves(key(crate::route::OTHER)), (100, false));
    }

    #[test]
    fn retry_after_is_what_is_missing_over_what_is_released_and_spread() {
        let it = Fixture::new(LimitMode::Enforce);
        it.uses(LIMIT);
        let mut seconds = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let refusal = it
                .layer
                .admit(&Claim::closed(), key(2), None, None)
                .unwrap_err();
            assert_eq!(refusal.by, RefusedBy::Stage);
            assert_eq!((refusal.used, refusal.limit), (Some(LIMIT), LIMIT));
            seconds.insert(refusal.retry_after.as_secs());
        }
        // Nothing was ever released: the upper bound of 60 s, and up to a quarter more or less.
        assert!(seconds.len() > 20, "{seconds:?}");
        assert!(
            seconds.first() >= Some(&45) && seconds.last() <= Some(&75),
            "{seconds:?}"
        );
    }

    #[test]
    fn sources_that_fail_lie_or_block_refuse_no_request() {
        let clock = ManualClock::new();
        let failing = Arc::new(Mutex::new(0));
        let builder = ProcessLimit::builder()
            .bytes(LIMIT)
            .clock(&clock)
            .root("/nonexistent");
        let limit = builder
            .source({
                let failing = Arc::clone(&failing);
                move || match *lock(&failing) {
                    0 => Some(LIMIT),
                    1 => Some(0),
                    2 => None,
                    _ => std::panic::resume_unwind(Box::new("the source panics")),
                }
            })
            .build()
            .unwrap();
        let layer = limit.for_layer(8);
        let admits = || layer.admit(&Claim::closed(), key(2), None, None).is_ok();
        assert!(!admits());
        for kind in 1..4 {
            *lock(&failing) = kind;
            clock.advance(Duration::from_secs(11));
            let before = limit.snapshot().failed_readings;
            clock.advance(Duration::from_millis(300));
            assert!(admits(), "kind {kind}");
            let snapshot = limit.snapshot();
            assert_eq!(
                (snapshot.used, snapshot.source, snapshot.base),
                (None, None, None)
            );
            assert!(snapshot.failed_readings >= before && before > 0);
            *lock(&failing) = 0;
            clock.advance(Duration::from_secs(11));
            assert!(!admits(), "it works again");
        }
    }

    /// While one request waits for a source, another one goes by the last figures.
    #[test]
    fn a_source_that_blocks_holds_up_one_request() {
        let clock = ManualClock::new();
        let gate = Arc::new(Mutex::new(()));
        let (entered, inside) = std::sync::mpsc::channel();
        let limit = ProcessLimit::builder()
            .bytes(LIMIT)
            .clock(&clock)
            .source({
                let gate = Arc::clone(&gate);
                move || {
                    let _ = entered.send(());
                    drop(lock(&gate));
                    Some(MIB)
                }
            })
            .build()
            .unwrap();
        inside.recv().unwrap();
        let layer = limit.for_layer(8);
        let held = lock(&gate);
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| layer.process().look(layer.process().now()));
            inside.recv().unwrap();
            for _ in 0..10 {
                layer.admit(&Claim::closed(), key(2), None, None).unwrap();
                layer.process().look(layer.process().now());
            }
            assert!(!blocked.is_finished());
            drop(held);
        });
    }
}
