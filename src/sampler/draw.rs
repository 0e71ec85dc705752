//! Which allocations are samples: the points of a Poisson process over the bytes that a thread allocates.
//!
//! A thread draws the distance to the next point, in bytes, from an exponential distribution. The
//! allocation that reaches the point is a sample. The process has no memory, so the next distance
//! counts from the end of that allocation, and a block of `n` bytes is a sample with the probability
//! `1 - exp(-n / rate)`.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    // Not loom's, which cannot be in a `static`.
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// A thread looks at the rate after this many bytes, also when no sample is due.
pub(crate) const POLL: u64 = 64 << 10;

/// The rate in bytes, or zero while sampling is off; and above it how often it was set.
static SETTING: AtomicU64 = AtomicU64::new(0);
const RATE_BITS: u32 = 40;
const MAX_RATE: u64 = (1 << RATE_BITS) - 1;

/// No setting: it would take too many changes.
const UNSET: u64 = u64::MAX;

/// The next thread's seed.
static SEED: AtomicU64 = AtomicU64::new(0);

/// The mean distance between two samples, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(u64);

/// What a sample stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    /// In parts of [`PARTS`].
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// Parts of an object.
pub(super) const PARTS: u64 = 256;

/// Samples each `bytes` bytes from now on, or no more. Not called by the allocator.
pub(crate) fn set_rate(bytes: Option<u64>) {
    if SEED.load(Relaxed) == 0 {
        let seed = RandomState::new().hash_one(0) | 1;
        SEED.store(seed, Relaxed);
    }
    let rate = bytes.map_or(0, |bytes| bytes.clamp(1, MAX_RATE));
    let next = |setting: u64| Some(((setting >> RATE_BITS).wrapping_add(1) << RATE_BITS) | rate);
    let _ = SETTING.fetch_update(Relaxed, Relaxed, next);
}

/// The rate in bytes, while samples are taken.
pub(crate) fn rate() -> Option<u64> {
    rate_of(SETTING.load(Relaxed)).map(|Rate(bytes)| bytes)
}

fn rate_of(setting: u64) -> Option<Rate> {
    let bytes = setting & MAX_RATE;
    (bytes != 0).then_some(Rate(bytes))
}

/// What a thread has drawn. A part of its block of counters, so only the owner uses it.
#[derive(Debug)]
pub(crate) struct Draw {
    /// The bytes allocated from which on an allocation is looked at: at most [`POLL`] away.
    next: Cell<u64>,
    /// Those from which on it is a sample.
    point: Cell<u64>,
    /// The setting for which `point` was drawn.
    setting: Cell<u64>,
    /// No samples are taken for now.
    is_muted: Cell<bool>,
    /// The state of the generator, or zero before its first use.
    random: Cell<u64>,
}

impl Draw {
    /// The first value of [`next`](Self::next).
    pub(crate) const FIRST: u64 = 0;

    pub(crate) const fn new() -> Self {
        Self {
            next: Cell::new(Self::FIRST),
            point: Cell::new(u64::MAX),
            setting: Cell::new(0),
            is_muted: Cell::new(false),
            random: Cell::new(0),
        }
    }

    /// The bytes allocated from which on an allocation is to be brought to [`due`](Self::due).
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next.get()
    }

    /// Whether the allocation with which the thread's bytes became `bytes` is a sample, and at which rate.
    #[inline]
    pub(crate) fn due(&self, bytes: u64) -> Option<Rate> {
        if bytes < self.next.get() {
            return None;
        }
        self.reached(bytes)
    }

    #[cold]
    #[inline(never)]
    fn reached(&self, bytes: u64) -> Option<Rate> {
        if self.is_muted.get() {
            self.next.set(bytes.saturating_add(POLL));
            return None;
        }
        let setting = SETTING.load(Relaxed);
        let drawn_for = self.setting.replace(setting);
        let rate = rate_of(setting);
        let is_point = bytes >= self.point.get();
        if is_point || drawn_for != setting {
            let distance = rate.map_or(u64::MAX, |rate| self.distance(rate));
            self.point.set(bytes.saturating_add(distance));
        }
        self.next
            .set(bytes.saturating_add(POLL).min(self.point.get()));
        // A point of another rate is none.
        rate.filter(|_| is_point && drawn_for == setting)
    }

    /// Takes no samples until [`unmute`](Self::unmute). Returns whether none were taken already.
    pub(crate) fn mute(&self) -> bool {
        self.is_muted.replace(true)
    }

    /// Takes samples again, from `bytes` on. The former point may have been passed, so another one is drawn.
    pub(crate) fn unmute(&self, bytes: u64) {
        self.is_muted.set(false);
        self.setting.set(UNSET);
        self.next.set(bytes);
        let _ = self.reached(bytes);
    }

    fn distance(&self, Rate(rate): Rate) -> u64 {
        // A conversion saturates. A distance is at least one byte.
        (-self.uniform().ln() * rate as f64).ceil().max(1.0) as u64
    }

    /// A number above zero and at most one.
    fn uniform(&self) -> f64 {
        let mut x = self.random.get();
        if x == 0 {
            x = mixed(SEED.fetch_add(0xd1b5_4a32_d192_ed03, Relaxed)) | 1;
        }
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        ((x >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
    }
}

/// All bits depend on all bits of `x`.
pub(super) const fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 29)
}

impl Weight {
    /// The weight of a sample by which a block grew by `bytes`. Only a new block is an object.
    pub(super) fn of(bytes: usize, is_new: bool, Rate(rate): Rate) -> Self {
        let size = bytes as f64;
        // One divided by the probability. `exp_m1` keeps the digits of small ones.
        let each = 1.0 / -(-size / rate as f64).exp_m1();
        let objects = if is_new { each * PARTS as f64 } else { 0.0 };
        Self {
            objects: objects.round() as u64,
            bytes: (each * size).round() as u64,
        }
    }

    /// The weight after the block has shrunk from `from` to `to` bytes.
    pub(super) fn shrunk(self, from: usize, to: usize) -> Self {
        let bytes = self.bytes as f64 * (to as f64 / from as f64);
        Self {
            bytes: (bytes.round() as u64).min(self.bytes),
            ..self
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    /// The estimates of many profiles of one load: their mean is within the 95 % interval around the truth.
    ///
    /// The seeds are fixed, so the result is always the same.
    #[test]
    fn estimates_of_bytes_and_objects_are_unbiased() {
        const PROFILES: usize = 400;
        for (rate, size, count) in [
            (4096, 24, 20_000),
            (4096, 1000, 2000),
            (4096, 5000, 800),
            (64 << 10, 3000, 2000),
            (512 << 10, 1 << 20, 100),
        ] {
            let rate = Rate(rate);
            let [mut bytes, mut objects] = [const { Vec::new() }; 2];
            for seed in 0..PROFILES {
                let draw = Draw::new();
                draw.random.set(mixed(seed as u64 + 1) | 1);
                let mut at = 0;
                draw.next.set(draw.distance(rate));
                let mut sum = Weight {
                    objects: 0,
                    bytes: 0,
                };
                for _ in 0..count {
                    at += size as u64;
                    if at >= draw.next() {
                        draw.next.set(at + draw.distance(rate));
                        let weight = Weight::of(size, true, rate);
                        sum.objects += weight.objects;
                        sum.bytes += weight.bytes;
                    }
                }
                bytes.push(sum.bytes as f64 / (count * size) as f64);
                objects.push(sum.objects as f64 / (PARTS as usize * count) as f64);
            }
            for estimates in [bytes, objects] {
                let n = PROFILES as f64;
                let mean = estimates.iter().sum::<f64>() / n;
                let squares = estimates.iter().map(|x| (x - mean).powi(2));
                let error = (squares.sum::<f64>() / (n - 1.0) / n).sqrt();
                assert!(
                    (mean - 1.0).abs() <= 1.96 * error,
                    "{size} bytes at {rate:?}: {mean} +- {error}"
                );
                // So that the interval says something.
                assert!(error < 0.03, "{size} bytes at {rate:?}: +- {error}");
            }
        }
    }

    #[test]
    fn a_distance_has_the_mean_and_the_spread_of_an_exponential_distribution() {
        const DRAWS: usize = 100_000;
        let draw = Draw::new();
        draw.random.set(12_345);
        let distances: Vec<f64> = (0..DRAWS)
            .map(|_| draw.distance(Rate(1 << 20)) as f64 / (1 << 20) as f64)
            .collect();
        let mean = distances.iter().sum::<f64>() / DRAWS as f64;
        assert!((mean - 1.0).abs() < 1.96 / (DRAWS as f64).sqrt(), "{mean}");
        for (bound, share) in [(0.1, 0.095_16), (1.0, 0.632_12), (3.0, 0.950_21)] {
            let below = distances.iter().filter(|x| **x <= bound).count() as f64 / DRAWS as f64;
            assert!((below - share).abs() < 0.004, "{below} below {bound}");
        }
    }

    #[test]
    fn a_weight_is_the_inverse_of_the_probability() {
        let rate = Rate(512 << 10);
        let weight = Weight::of(64, true, rate);
        assert!((weight.objects / PARTS).abs_diff(8192) <= 1, "{weight:?}");
        assert!(weight.bytes.abs_diff(512 << 10) <= 64, "{weight:?}");
        // What is always sampled counts once.
        let large = Weight::of(64 << 20, true, rate);
        assert_eq!((large.objects, large.bytes), (PARTS, 64 << 20));
        assert_eq!(Weight::of(64, false, rate).objects, 0);
        assert_eq!(large.shrunk(64 << 20, 16 << 20).bytes, 16 << 20);
    }
}
