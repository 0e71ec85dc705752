use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::sync::{AtomicU64, Ordering};

/// Who set the deadline that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadlineSource {
    /// The application, through `RequestScope::tighten_deadline`.
    Handler,
    /// A `MemoryLayer`'s `timeout`.
    Layer,
}

impl DeadlineSource {
    pub(super) const fn to_code(self) -> u8 {
        match self {
            Self::Handler => 1,
            Self::Layer => 2,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Handler),
            2 => Some(Self::Layer),
            _ => None,
        }
    }
}

impl fmt::Display for DeadlineSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handler => "the application",
            Self::Layer => "the layer",
        })
    }
}

/// Bits of [`Deadline::packed`] that hold the source.
const SOURCE_BITS: u32 = 4;

const NONE: u64 = u64::MAX;

/// The earliest of all deadlines set so far.
///
/// Time and source are one word, so that they always belong together: units of 16 ns since the
/// start above, the source's code in the lowest bits. Comparing words compares times.
#[derive(Debug)]
pub(crate) struct Deadline {
    packed: AtomicU64,
}

impl Deadline {
    pub(crate) fn none() -> Self {
        Self {
            packed: AtomicU64::new(NONE),
        }
    }

    /// Makes the deadline `after` the start, unless an earlier one is in force.
    ///
    /// A time that does not fit (beyond 500 years) is no deadline.
    pub(crate) fn tighten(&self, after: Duration, source: DeadlineSource) {
        // Rounded up: a request is never ended before its time.
        let Some(units) = u64::try_from(after.as_nanos())
            .ok()
            .and_then(|nanos| nanos.checked_next_multiple_of(1 << SOURCE_BITS))
        else {
            return;
        };
        // Relaxed: the word is complete in itself.
        self.packed
            .fetch_min(units | u64::from(source.to_code()), Ordering::Relaxed);
    }

    /// Forgets all deadlines. `&mut`: only between two requests.
    pub(crate) fn clear(&mut self) {
        self.packed.store(NONE, Ordering::Relaxed);
    }

    /// When it is, for a request that started at `start`, and who set it.
    #[inline]
    pub(crate) fn at(&self, start: Instant) -> Option<(Instant, DeadlineSource)> {
        let packed = self.packed.load(Ordering::Relaxed);
        if packed == NONE {
            return None;
        }
        let mask = (1_u64 << SOURCE_BITS) - 1;
        let source = DeadlineSource::from_code((packed & mask) as u8)?;
        // Beyond what the clock can say there is no deadline.
        let at = start.checked_add(Duration::from_nanos(packed & !mask))?;
        Some((at, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_wins_in_both_orders() {
        let start = Instant::now();
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(2));
        for (first, second) in [(short, long), (long, short)] {
            let deadline = Deadline::none();
            deadline.tighten(first, DeadlineSource::Layer);
            deadline.tighten(second, DeadlineSource::Layer);
            assert_eq!(
                deadline.at(start),
                Some((start + short, DeadlineSource::Layer))
            );
        }
    }

    #[test]
    fn the_source_belongs_to_the_deadline_that_won() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.tighten(Duration::from_secs(2), DeadlineSource::Layer);
        deadline.tighten(Duration::from_secs(1), DeadlineSource::Handler);
        let (_, source) = deadline.at(start).expect("set");
        assert_eq!(source, DeadlineSource::Handler);
    }

    #[test]
    fn an_endless_timeout_is_no_deadline() {
        for endless in [Duration::MAX, Duration::from_nanos(u64::MAX)] {
            let deadline = Deadline::none();
            deadline.tighten(endless, DeadlineSource::Layer);
            assert_eq!(deadline.at(Instant::now()), None);
        }
    }

    #[test]
    fn a_zero_timeout_is_due_at_the_start() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.tighten(Duration::ZERO, DeadlineSource::Layer);
        assert_eq!(deadline.at(start), Some((start, DeadlineSource::Layer)));
    }

    #[test]
    fn rounding_never_makes_a_deadline_earlier() {
        let start = Instant::now();
        for nanos in [1, 15, 16, 17, 999_999_999] {
            let after = Duration::from_nanos(nanos);
            let deadline = Deadline::none();
            deadline.tighten(after, DeadlineSource::Layer);
            let (at, _) = deadline.at(start).expect("set");
            assert!(at >= start + after);
            assert!(at < start + after + Duration::from_nanos(16));
        }
    }
}
