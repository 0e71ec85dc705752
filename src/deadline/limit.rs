use std::time::Duration;

use crate::sync::{AtomicU64, Ordering, SetMut};

const NONE: u64 = u64::MAX;

/// The shortest of all durations set so far.
///
/// Relaxed throughout: the word is complete in itself, and read later by the request's own future or
/// body.
#[derive(Debug)]
pub(super) struct Limit {
    nanos: AtomicU64,
}

impl Limit {
    pub(super) fn none() -> Self {
        Self {
            nanos: AtomicU64::new(NONE),
        }
    }

    /// The raw value of a limit, for [`restore`](Self::restore).
    pub(super) fn packed(limit: Option<Duration>) -> u64 {
        limit.map_or(NONE, |limit| {
            u64::try_from(limit.as_nanos()).unwrap_or(NONE)
        })
    }

    /// Makes the limit `limit`, unless a shorter one is in force. One that does not fit (beyond 500
    /// years) is none.
    pub(super) fn tighten(&self, limit: Duration) {
        if let Ok(nanos) = u64::try_from(limit.as_nanos()) {
            self.nanos.fetch_min(nanos, Ordering::Relaxed);
        }
    }

    pub(super) fn lift(&self) {
        self.nanos.store(NONE, Ordering::Relaxed);
    }

    /// As [`lift`](Self::lift), between two requests.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.nanos.set_mut(NONE);
    }

    /// The raw value, for [`restore`](Self::restore).
    pub(super) fn save(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn restore(&self, saved: u64) {
        self.nanos.store(saved, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.nanos.load(Ordering::Relaxed) != NONE
    }

    #[inline]
    pub(super) fn get(&self) -> Option<Duration> {
        let nanos = self.nanos.load(Ordering::Relaxed);
        (nanos != NONE).then(|| Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_limit_holds_in_both_orders_until_it_is_lifted() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(2));
        for (first, second) in [(short, long), (long, short)] {
            let limit = Limit::none();
            assert_eq!(limit.get(), None);
            limit.tighten(first);
            limit.tighten(second);
            limit.tighten(Duration::MAX);
            assert_eq!(limit.get(), Some(short));
            limit.lift();
            assert_eq!(limit.get(), None);
        }
    }
}
