use std::time::Duration;

use super::{
    policy::{Reading, Verdict},
    pressure::Priority,
};
use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

/// The last verdict, for all threads.
pub(super) struct Figures {
    pub(super) rooms: [AtomicU64; Priority::ALL.len()],
    pub(super) stage: AtomicU8,
    /// Nanoseconds since the start, plus one; zero before the first reading.
    pub(super) read_at: AtomicU64,
    /// `u64::MAX` if it is not known.
    pub(super) used: AtomicU64,
    pub(super) base: AtomicU64,
    /// Bits of floats.
    pub(super) k: AtomicU64,
    pub(super) level: AtomicU64,
    pub(super) release_rate: AtomicU64,
    pub(super) is_ready: AtomicBool,
    /// The least base of the last ten minutes.
    pub(super) least_base: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

pub(super) fn known(word: &AtomicU64) -> Option<u64> {
    Some(word.load(Relaxed)).filter(|value| *value != UNKNOWN)
}

impl Figures {
    pub(super) fn new() -> Self {
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
    pub(super) fn publish(&self, reading: &Reading, verdict: &Verdict, least_base: u64) {
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
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}
