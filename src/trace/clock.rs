//! What polls are timed with: the processor's counter where it counts time, which takes a third of an `Instant`.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

const UNKNOWN: u8 = 0;
const INSTANT: u8 = 1;
const COUNTER: u8 = 2;

/// Which clock this machine has.
static CLOCK: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Chooses the clock, once. Until then it is an `Instant`.
pub(super) fn choose() {
    let clock = if is_counter_steady() {
        COUNTER
    } else {
        INSTANT
    };
    // Relaxed: each thread would choose the same.
    CLOCK.store(clock, Ordering::Relaxed);
}

/// The time in ticks, whose length `Anchor`s tell.
#[inline]
pub(super) fn ticks() -> u64 {
    if CLOCK.load(Ordering::Relaxed) == COUNTER {
        return counter();
    }
    since_start()
}

/// In nanoseconds.
#[cold]
#[inline(never)]
fn since_start() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(
    unsafe_code,
    reason = "stable Rust reads the counter by an intrinsic only"
)]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it reads nothing else (invariant 1).
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    1
}

/// Whether the counter runs at the same rate in all states of the processor, and on all of its cores.
#[cfg(target_arch = "x86_64")]
fn is_counter_steady() -> bool {
    // Linux has measured whether it agrees on all cores, and says which source it uses.
    let source = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    let listed = std::fs::read_to_string(source)
        .is_ok_and(|text| text.split_whitespace().any(|source| source == "tsc"));
    listed
        || std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
            let flags = text.lines().find(|line| line.starts_with("flags"));
            flags.is_some_and(|flags| {
                flags.contains(" constant_tsc") && flags.contains(" nonstop_tsc")
            })
        })
}

#[cfg(not(target_arch = "x86_64"))]
fn is_counter_steady() -> bool {
    false
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    pub(super) ticks: u64,
    pub(super) at: Instant,
}

impl Anchor {
    pub(super) fn now() -> Self {
        Self {
            ticks: ticks(),
            at: Instant::now(),
        }
    }

    /// A moment long enough ago for a rate. Takes a millisecond, the first time.
    pub(super) fn earlier() -> Self {
        static FIRST: OnceLock<Anchor> = OnceLock::new();
        let first = *FIRST.get_or_init(Self::now);
        while first.at.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        first
    }
}

/// The line through two anchors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    from: Anchor,
    nanos_per_tick: f64,
}

impl Rate {
    pub(super) fn between(from: Anchor, to: Anchor) -> Self {
        let ticks = to.ticks.saturating_sub(from.ticks).max(1);
        let nanos = to.at.saturating_duration_since(from.at).as_nanos();
        Self {
            from,
            nanos_per_tick: nanos.max(1) as f64 / ticks as f64,
        }
    }

    /// Nanoseconds from the first anchor to `ticks`; negative before it.
    pub(super) fn nanos(&self, ticks: u64) -> i64 {
        let since = ticks.wrapping_sub(self.from.ticks) as i64;
        (since as f64 * self.nanos_per_tick).round() as i64
    }

    pub(super) fn ticks(&self, time: Duration) -> u64 {
        (time.as_nanos() as f64 / self.nanos_per_tick) as u64
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_the_time_of_an_instant() {
        choose();
        let earlier = Anchor::earlier();
        let from = Anchor::now();
        while from.at.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let to = Anchor::now();
        let rate = Rate::between(earlier, to);
        let measured = rate.nanos(to.ticks) - rate.nanos(from.ticks);
        let real = to.at.duration_since(from.at).as_nanos() as i64;
        assert!((measured - real).abs() < real / 20, "{measured} {real}");
        let back = rate.ticks(Duration::from_nanos(measured as u64));
        let ticks = to.ticks - from.ticks;
        assert!(back.abs_diff(ticks) <= ticks / 1000, "{back} {ticks}");
    }

    #[test]
    fn a_moment_before_the_anchor_is_negative() {
        let at = Instant::now();
        let from = Anchor { ticks: 1000, at };
        let to = Anchor {
            ticks: 2000,
            at: at + Duration::from_nanos(500),
        };
        let rate = Rate::between(from, to);
        assert_eq!(
            [rate.nanos(1000), rate.nanos(2000), rate.nanos(900)],
            [0, 500, -50]
        );
    }
}
