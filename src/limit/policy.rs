//! What fits and what to do, from one reading to the next. Plain code without clock, atomics or I/O, so that
//! tests and the simulation run it as it is.

use std::time::Duration;

use super::stage::{Stage, Stages};

/// How much lower than its mark a stage is left, as a share of the limit.
const HYSTERESIS: f64 = 0.05;

/// Between two victims. A cancelled request needs some time to free its memory.
pub(crate) const VICTIM_INTERVAL: Duration = Duration::from_millis(10);

/// The least value of `k`.
const LEAST_K: f64 = 0.25;

/// The time over which the share that is held, and its deviation, are averaged.
const K_TIME: Duration = Duration::from_secs(3);

/// How many deviations `k` is above the mean share.
const DEVIATIONS: f64 = 2.0;

/// How long a stage that refuses or cancels is kept at least. A second of refusals because of one large
/// request costs a tenth of the good answers.
const MIN_REFUSE_TIME: Duration = Duration::from_millis(200);

/// Reservations of less than this share of the limit say nothing about `k`.
const FEW: f64 = 0.02;

/// Over this time the rate of released bytes is averaged.
const RATE_TIME: Duration = Duration::from_secs(2);

/// Refusals without an admission for this long make the process unready.
const UNREADY_AFTER: Duration = Duration::from_secs(30);

/// Refusals that are further apart are not continuous.
const SILENCE: Duration = Duration::from_secs(5);

/// It is ready again after there was room for this long.
const READY_AFTER: Duration = Duration::from_secs(10);

/// How many priorities there are: low, normal and critical.
pub(crate) const PRIORITIES: usize = 3;
const LOW: usize = 0;
const NORMAL: usize = 1;

/// What was read at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Since the start of the clock.
    pub(crate) at: Duration,
    /// Bytes that the process may use.
    pub(crate) limit: u64,
    /// Bytes that it uses; `None` if no source can tell.
    pub(crate) used: Option<u64>,
    /// Bytes of these that open requests hold; `None` if that is not known, and nothing can be predicted.
    pub(crate) held: Option<u64>,
    /// The sum of the open requests' reservations.
    pub(crate) reserved: u64,
    /// What of that is a guess, since nothing was known of the route.
    pub(crate) guessed: u64,
    /// Reservations released so far.
    pub(crate) released: u64,
    /// Requests admitted and refused so far.
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    /// What the system's own figures ask for. It raises the stage and refuses nothing.
    pub(crate) hint: Stage,
}

/// What follows from a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) stage: Stage,
    /// By priority: the sum of reservations that fits. A request is admitted if its own fits into the rest.
    pub(crate) rooms: [u64; PRIORITIES],
    /// Bytes that no open request holds; `None` if that is not known.
    pub(crate) base: Option<u64>,
    /// The share of the reservations that requests hold at once.
    pub(crate) k: f64,
    /// From 0, up to [`Stage::BrownOut`], to 1, at [`Stage::Refuse`].
    pub(crate) level: f64,
    /// Reserved bytes released per second.
    pub(crate) release_rate: f64,
    /// Whether to cancel a request now.
    pub(crate) cancels: bool,
    pub(crate) is_ready: bool,
}

impl Verdict {
    /// Everything is admitted.
    pub(crate) const fn open() -> Self {
        Self {
            stage: Stage::Normal,
            rooms: [u64::MAX; PRIORITIES],
            base: None,
            k: 1.0,
            level: 0.0,
            release_rate: 0.0,
            cancels: false,
            is_ready: true,
        }
    }
}

/// The state between readings.
#[derive(Debug)]
pub(crate) struct Policy {
    stages: Stages,
    min_stage_time: Duration,
    last: Option<Reading>,
    k: f64,
    /// Means over [`K_TIME`], once there is a reading: the share of the reservations that is held, and how far
    /// it is off.
    shares: Option<Shares>,
    release_rate: f64,
    stage: Stage,
    /// When the stage was entered.
    since: Duration,
    last_victim: Option<Duration>,
    /// By priority, without a prediction: whether requests are refused, and since when.
    gates: [Gate; PRIORITIES],
    readiness: Readiness,
}

#[derive(Debug, Clone, Copy)]
struct Shares {
    mean: f64,
    deviation: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    closed: Option<Duration>,
}

#[derive(Debug)]
struct Readiness {
    is_ready: bool,
    /// Since when there were refusals only; or, while unready, since when there is room.
    since: Option<Duration>,
    refused_at: Duration,
}

impl Policy {
    pub(crate) const fn new(stages: Stages, min_stage_time: Duration) -> Self {
        Self {
            stages,
            min_stage_time,
            last: None,
            k: 1.0,
            shares: None,
            release_rate: 0.0,
            stage: Stage::Normal,
            since: Duration::ZERO,
            last_victim: None,
            gates: [Gate { closed: None }; PRIORITIES],
            readiness: Readiness {
                is_ready: true,
                since: None,
                refused_at: Duration::ZERO,
            },
        }
    }

    /// Takes a reading in.
    pub(crate) fn read(&mut self, now: &Reading) -> Verdict {
        let mut verdict = Verdict::open();
        self.learn_rates(now);
        let share = now.used.map(|used| used as f64 / now.limit.max(1) as f64);
        self.move_stage(share.unwrap_or(0.0), now);
        verdict.stage = self.stage;
        (verdict.k, verdict.release_rate) = (self.k, self.release_rate);
        if let (Some(used), Some(share)) = (now.used, share) {
            let base = |held: u64| {
                if bug!("base-negative") {
                    return used.wrapping_sub(held);
                }
                used.saturating_sub(held)
            };
            verdict.base = now.held.map(base);
            verdict.rooms = self.rooms(now, verdict.base, share);
            verdict.level = self.level(share);
            verdict.cancels = self.cancels(share, now.at);
        }
        self.readiness.read(self.last.as_ref(), now, &verdict);
        verdict.is_ready = self.readiness.is_ready;
        self.last = Some(*now);
        verdict
    }

    /// Learns `k` and the rate of released bytes.
    fn learn_rates(&mut self, now: &Reading) {
        let Some(last) = &self.last else {
            return;
        };
        // A clock that goes back stands still.
        let passed = now.at.saturating_sub(last.at);
        if !passed.is_zero() {
            let released = now.released.wrapping_sub(last.released) as f64;
            let rate = released / passed.as_secs_f64();
            self.release_rate += (rate - self.release_rate) * faded(passed, RATE_TIME);
        }
        let Some(held) = now.held else {
            return;
        };
        // A guess says nothing about what requests hold of what their route makes expect. What those hold that
        // were admitted by a guess is counted, which is on the safe side.
        let reserved = now.reserved.saturating_sub(now.guessed) as f64;
        if reserved <= FEW * now.limit as f64 {
            return;
        }
        let share = (held as f64 / reserved).clamp(LEAST_K, 1.0);
        // The first one is taken for the mean of others that are off by half of it.
        let shares = self.shares.get_or_insert(Shares {
            mean: share,
            deviation: share / 2.0,
        });
        let (fresh, off) = (faded(passed, K_TIME), share - shares.mean);
        shares.mean += off * fresh;
        shares.deviation += (off.abs() - shares.deviation) * fresh;
        let expected = shares.mean + DEVIATIONS * shares.deviation;
        // At once, if more is held than expected.
        let least = if bug!("k-never-falls") {
            self.k
        } else {
            LEAST_K
        };
        self.k = expected.max(share).clamp(least, 1.0);
    }

    /// Rises at once, and falls when the share is low enough and the stage was kept for long enough.
    fn move_stage(&mut self, share: f64, now: &Reading) {
        let hint = now.hint.min(Stage::BrownOut);
        let reached = |lower: f64| {
            let mut stages = Stage::ALL.iter().copied().rev();
            let by_share = stages.find(|&stage| share >= self.stages.mark(stage) - lower);
            by_share.unwrap_or_default().max(hint)
        };
        let up = reached(0.0);
        if up > self.stage {
            (self.stage, self.since) = (up, now.at);
            return;
        }
        let down = reached(HYSTERESIS);
        let min = if self.stage >= Stage::Refuse {
            self.min_stage_time.min(MIN_REFUSE_TIME)
        } else {
            self.min_stage_time
        };
        if down < self.stage && now.at.saturating_sub(self.since) >= min {
            (self.stage, self.since) = (down, now.at);
        }
    }

    /// A request fits if `base + max(held, k * (reserved + its own))` is within its priority's share. Of a guess
    /// all counts.
    fn rooms(&mut self, now: &Reading, base: Option<u64>, share: f64) -> [u64; PRIORITIES] {
        let shares = [self.stages.admit_low, self.stages.admit, self.stages.refuse];
        let mut rooms = [0; PRIORITIES];
        for (priority, room) in rooms.iter_mut().enumerate() {
            *room = match (base, now.held) {
                (Some(base), Some(held)) => {
                    let left = (shares[priority] * now.limit as f64) as u64;
                    let left = left.saturating_sub(base);
                    if held > left {
                        0
                    } else {
                        let guessed = now.guessed.min(left);
                        // A float saturates.
                        ((left - guessed) as f64 / self.k) as u64 + guessed
                    }
                }
                _ => {
                    let gate = &mut self.gates[priority];
                    if gate.is_open(share, shares[priority], now.at, self.min_stage_time) {
                        u64::MAX
                    } else {
                        0
                    }
                }
            };
        }
        if self.stage >= Stage::Refuse {
            (rooms[LOW], rooms[NORMAL]) = (0, 0);
        }
        rooms
    }

    fn level(&self, share: f64) -> f64 {
        // The least positive level: a stage that is kept below its mark.
        const LEAST: f64 = 0.01;
        if self.stage < Stage::BrownOut {
            return 0.0;
        }
        let Stages {
            brown_out, refuse, ..
        } = self.stages;
        ((share - brown_out) / (refuse - brown_out)).clamp(LEAST, 1.0)
    }

    fn cancels(&mut self, share: f64, at: Duration) -> bool {
        let due = self
            .last_victim
            .is_none_or(|last| at.saturating_sub(last) >= VICTIM_INTERVAL);
        let cancels = due && share > self.stages.cancel;
        if cancels {
            self.last_victim = Some(at);
        }
        cancels
    }
}

/// How much of a mean over `time` the last `passed` replace.
fn faded(passed: Duration, time: Duration) -> f64 {
    (passed.as_secs_f64() / time.as_secs_f64()).min(1.0)
}

impl Gate {
    fn is_open(&mut self, share: f64, mark: f64, at: Duration, min: Duration) -> bool {
        match self.closed {
            None if share > mark => self.closed = Some(at),
            Some(since) if share < mark - HYSTERESIS && at.saturating_sub(since) >= min => {
                self.closed = None;
            }
            _ => {}
        }
        self.closed.is_none()
    }
}

impl Readiness {
    fn read(&mut self, last: Option<&Reading>, now: &Reading, verdict: &Verdict) {
        let Some(last) = last else {
            return;
        };
        let admitted = now.admitted != last.admitted;
        // An unready process gets no requests that it could admit.
        let counts = if self.is_ready {
            if now.refused != last.refused {
                self.refused_at = now.at;
            }
            // Without requests there is nothing to be unready for.
            let silent = now.at.saturating_sub(self.refused_at);
            !admitted && now.refused > 0 && silent < SILENCE
        } else {
            admitted || now.reserved < verdict.rooms[NORMAL]
        };
        if !counts {
            self.since = None;
            return;
        }
        let since = *self.since.get_or_insert(now.at);
        let wait = if self.is_ready {
            UNREADY_AFTER
        } else {
            READY_AFTER
        };
        if now.at.saturating_sub(since) >= wait {
            self.is_ready = !self.is_ready;
            self.since = None;
        }
    }
}

/// A request that may be cancelled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<K> {
    pub(crate) key: K,
    pub(crate) held: u64,
    /// The mean of its route.
    pub(crate) mean: u64,
    /// When it began.
    pub(crate) since: Duration,
}

/// The least that counts as a route's mean when victims are compared, and the least that a candidate holds.
pub(crate) const LEAST_MEAN: u64 = 1 << 20;

/// The candidate that holds the most, compared with its route's mean; the oldest one of several.
pub(crate) fn worst<K>(candidates: impl IntoIterator<Item = Candidate<K>>) -> Option<K> {
    let ratio = |it: &Candidate<K>| it.held as f64 / it.mean.max(LEAST_MEAN) as f64;
    let worst = candidates.into_iter().reduce(|worst, other| {
        let order = ratio(&other).total_cmp(&ratio(&worst));
        if order.is_gt() || order.is_eq() && other.since < worst.since {
            other
        } else {
            worst
        }
    });
    worst.map(|worst| worst.key)
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    const LIMIT: u64 = 1_000_000;
    const SECOND: Duration = Duration::from_secs(1);
    const CRITICAL: usize = 2;

    /// A policy with a clock that the test moves.
    struct Clocked {
        policy: Policy,
        reading: Reading,
    }

    impl Clocked {
        fn new() -> Self {
            Self {
                policy: Policy::new(Stages::default(), SECOND),
                reading: Reading {
                    limit: LIMIT,
                    held: Some(0),
                    used: Some(0),
                    ..Reading::default()
                },
            }
        }

        fn after(&mut self, millis: u64, used: u64) -> Verdict {
            self.reading.at += Duration::from_millis(millis);
            self.reading.used = Some(used);
            self.policy.read(&self.reading)
        }

        fn held_after(&mut self, millis: u64, held: u64, reserved: u64) -> Verdict {
            (self.reading.held, self.reading.reserved) = (Some(held), reserved);
            self.after(millis, held)
        }
    }

    #[test]
    fn a_stage_is_entered_at_its_share_and_left_five_points_lower_after_its_time() {
        let marks = [
            (Stage::Trim, 700_000, Stage::Normal),
            (Stage::BrownOut, 800_000, Stage::Trim),
            (Stage::Refuse, 970_000, Stage::BrownOut),
            (Stage::Cancel, 1_000_000, Stage::Refuse),
        ];
        for (stage, mark, lower) in marks {
            let mut it = Clocked::new();
            assert_eq!(it.after(1, mark - 1).stage, lower, "one byte below {stage}");
            assert_eq!(it.after(1, mark).stage, stage);
            assert_eq!(
                it.after(5000, mark - 50_000).stage,
                stage,
                "not five points lower"
            );
            let left = it.after(1, mark - 50_001).stage;
            assert!(left < stage, "{stage} is left, for {left}");

            let mut it = Clocked::new();
            it.after(1, mark);
            let min = if stage >= Stage::Refuse { 200 } else { 1000 };
            assert_eq!(it.after(min - 1, 0).stage, stage, "too early");
            assert_eq!(it.after(1, 0).stage, Stage::Normal);
        }
    }

    #[test]
    fn a_byte_to_and_fro_at_a_mark_changes_nothing() {
        for mark in [700_000, 800_000, 970_000, 1_000_000] {
            let mut it = Clocked::new();
            let stage = it.after(1, mark).stage;
            for step in 0..10_000 {
                assert_eq!(it.after(5, mark - step % 2).stage, stage);
            }
        }
    }

    #[test]
    fn a_jump_over_all_stages_and_back_is_one_step_each() {
        let mut it = Clocked::new();
        assert_eq!(it.after(1, u64::MAX).stage, Stage::Cancel);
        assert_eq!(it.after(199, 0).stage, Stage::Cancel);
        assert_eq!(it.after(1, 0).stage, Stage::Normal);
        it.after(1, LIMIT);
        assert_eq!(it.after(200, 760_000).stage, Stage::BrownOut, "above 0.75");
        assert_eq!(
            it.after(200, 660_000).stage,
            Stage::BrownOut,
            "since 200 ms"
        );
        assert_eq!(it.after(800, 660_000).stage, Stage::Trim);
    }

    #[test]
    fn a_clock_that_goes_back_or_jumps_is_survived() {
        let mut it = Clocked::new();
        it.reading.at = Duration::from_secs(1000);
        it.after(0, LIMIT);
        it.reading.at = Duration::ZERO;
        assert_eq!(it.after(0, 0).stage, Stage::Cancel, "no time has passed");
        it.reading.at = Duration::MAX;
        let verdict = it.after(0, 0);
        assert_eq!(verdict.stage, Stage::Normal);
        assert!(verdict.k.is_finite() && verdict.release_rate.is_finite());
    }

    #[test]
    fn rooms_are_what_the_shares_leave_of_the_limit_over_k() {
        let mut it = Clocked::new();
        it.reading.held = Some(100_000);
        let rooms = it.after(1, 300_000).rooms;
        assert_eq!(
            rooms,
            [500_000, 700_000, 770_000],
            "a base of 200 000 and k of 1"
        );
        it.reading.held = Some(600_000);
        let rooms = it.after(1, 650_000).rooms;
        assert_eq!(rooms, [650_000, 850_000, 920_000]);
        it.reading.held = Some(700_000);
        let rooms = it.after(1, 750_000).rooms;
        assert_eq!(rooms[LOW], 0, "more is held than low ones may have");
        let rooms = it.after(1, 970_000).rooms;
        assert_eq!((rooms[LOW], rooms[NORMAL]), (0, 0));
        assert_eq!(rooms[CRITICAL], 700_000);
    }

    #[test]
    fn a_guess_says_nothing_about_k_and_counts_whole() {
        let mut it = Clocked::new();
        it.reading.guessed = 400_000;
        assert_eq!(it.held_after(5, 1000, 400_000).k, 1.0);
        assert_eq!(it.held_after(5000, 1000, 400_000).k, 1.0);
        it.reading.guessed = 200_000;
        it.held_after(5, 100_000, 400_000);
        let verdict = it.held_after(60_000, 100_000, 400_000);
        assert!((verdict.k - 0.5).abs() < 0.01, "{}", verdict.k);
        // 0.9 of the limit, nothing of which is used by others.
        let room = (900_000.0 - 200_000.0) / verdict.k + 200_000.0;
        assert!((verdict.rooms[1] as f64 - room).abs() < 2.0);
    }

    #[test]
    fn k_rises_at_once_and_falls_within_seconds_to_a_quarter() {
        let mut it = Clocked::new();
        for _ in 0..6000 {
            it.held_after(5, 40_000, 400_000);
        }
        let k = it.held_after(5, 40_000, 400_000).k;
        assert!((LEAST_K..LEAST_K + 0.01).contains(&k), "{k}");
        let k = it.held_after(5, 320_000, 400_000).k;
        assert!(k >= 0.8, "{k}");
        for _ in 0..1000 {
            it.held_after(5, 320_000, 400_000);
        }
        let mut seconds = 0;
        while it.held_after(1000, 40_000, 400_000).k > 0.3 {
            seconds += 1;
        }
        assert!((3..30).contains(&seconds), "{seconds}");
        let k = it.held_after(5, 19_999, 20_000).k;
        assert!(k < 0.3, "few reservations say nothing");
    }

    #[test]
    fn more_held_than_used_is_a_base_of_zero() {
        let mut it = Clocked::new();
        it.reading.held = Some(500_000);
        let verdict = it.after(1, 400_000);
        assert_eq!(verdict.base, Some(0));
        assert_eq!(verdict.rooms[NORMAL], 900_000);
    }

    #[test]
    fn nothing_known_admits_all_and_no_prediction_refuses_by_thresholds() {
        let mut it = Clocked::new();
        it.reading.used = None;
        let verdict = it.policy.read(&it.reading);
        assert_eq!((verdict.rooms, verdict.base), ([u64::MAX; 3], None));

        let mut it = Clocked::new();
        it.reading.held = None;
        let open = |verdict: Verdict| verdict.rooms.map(|room| room == u64::MAX);
        assert_eq!(open(it.after(1, 700_000)), [true, true, true]);
        assert_eq!(open(it.after(1, 700_001)), [false, true, true]);
        assert_eq!(open(it.after(1, 900_001)), [false, false, true]);
        assert_eq!(open(it.after(1, 960_000)), [false, false, true]);
        assert_eq!(open(it.after(1, 970_001)), [false, false, false]);
        assert_eq!(
            open(it.after(5000, 850_000)),
            [false, false, true],
            "not five lower"
        );
        assert_eq!(open(it.after(1, 849_999)), [false, true, true]);
        assert_eq!(open(it.after(1, 0)), [true, true, true]);
    }

    #[test]
    fn a_hint_raises_the_stage_to_brown_out_and_refuses_nothing() {
        let mut it = Clocked::new();
        it.reading.hint = Stage::Cancel;
        let verdict = it.after(1, 100_000);
        assert_eq!(verdict.stage, Stage::BrownOut);
        assert_eq!(verdict.rooms, [700_000 - 100_000, 800_000, 870_000]);
        assert!(verdict.level > 0.0 && verdict.level < 0.02);
        it.reading.hint = Stage::Normal;
        assert_eq!(it.after(1000, 100_000).stage, Stage::Normal);
    }

    #[test]
    fn the_level_rises_from_brown_out_to_refuse() {
        let mut it = Clocked::new();
        assert_eq!(it.after(1, 799_999).level, 0.0);
        let mut last = 0.0;
        for used in [800_000, 850_000, 900_000, 950_000] {
            let level = it.after(1, used).level;
            assert!(level > last && level < 1.0, "{level} at {used}");
            last = level;
        }
        assert_eq!(it.after(1, 970_000).level, 1.0);
    }

    #[test]
    fn a_victim_is_due_every_ten_milliseconds_above_the_limit() {
        let mut it = Clocked::new();
        assert!(!it.after(1, LIMIT).cancels, "not above it");
        assert!(it.after(1, LIMIT + 1).cancels);
        let due = (0..100).filter(|_| it.after(1, LIMIT + 1).cancels).count();
        assert_eq!(due, 10);
        assert!(!it.after(100, LIMIT).cancels);
    }

    #[test]
    fn the_worst_holds_most_compared_with_its_route_and_is_the_oldest() {
        let of = |key, held: u64, mean: u64, since| Candidate {
            key,
            held: held << 20,
            mean: mean << 20,
            since: Duration::from_secs(since),
        };
        assert_eq!(worst::<u8>([]), None);
        let heavy = of('h', 100, 50, 0);
        let greedy = of('g', 20, 2, 1);
        assert_eq!(worst([heavy, greedy]), Some('g'));
        assert_eq!(
            worst([of('a', 5, 0, 3), of('b', 5, 1, 2), of('c', 5, 1, 4)]),
            Some('b')
        );
    }

    #[test]
    fn readiness_ends_after_thirty_seconds_of_refusals_only() {
        let mut it = Clocked::new();
        for second in 0..100 {
            it.reading.refused += 1;
            it.reading.admitted += u64::from(second % 20 == 0);
            assert!(it.after(1000, LIMIT).is_ready, "one admission each 20 s");
        }
        let mut it = Clocked::new();
        it.after(1, LIMIT);
        let unready = (1..).find(|_| {
            it.reading.refused += 1;
            !it.after(1000, LIMIT).is_ready
        });
        assert_eq!(unready, Some(31));
    }

    #[test]
    fn silence_is_no_refusal() {
        let mut it = Clocked::new();
        it.after(1, LIMIT);
        it.reading.refused += 1;
        for _ in 0..100 {
            assert!(it.after(1000, LIMIT).is_ready);
        }
    }

    #[test]
    fn readiness_returns_after_ten_seconds_of_room_with_or_without_requests() {
        for requests in [0, 1] {
            let mut it = Clocked::new();
            for _ in 0..40 {
                it.reading.refused += 1;
                it.after(1000, LIMIT);
            }
            assert!(!it.after(1, LIMIT).is_ready);
            it.after(1000, 0);
            it.after(1, LIMIT);
            let ready = (0..).find(|_| {
                it.reading.admitted += requests;
                it.after(1000, 0).is_ready
            });
            assert_eq!(ready, Some(10), "since the last time without room");
        }
    }
}
