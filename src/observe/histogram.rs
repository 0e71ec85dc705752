use std::time::Duration;

use crate::{
    histogram::{PARTS, bucket, upper},
    sync::{AtomicU64, Ordering},
};

// `CancelLatency` states this bound.
const _: () = assert!(PARTS == 8);

/// The last bucket also counts everything longer; it begins at more than four hours.
const BUCKETS: usize = bucket(1 << 44);

/// Counts durations by length, in nanoseconds.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::iter::repeat_with(|| AtomicU64::new(0))
                .take(BUCKETS)
                .collect(),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(super) fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed, here and below: each number is correct by itself. The maximum is stored first, so
        // that a count never comes without one.
        self.max.fetch_max(nanos, Ordering::Relaxed);
        self.counts[bucket(nanos).min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the count, and median, 99th percentile and maximum. `None` if the histogram is empty.
    ///
    /// Each percentile is the upper bound of its bucket, and at most the maximum.
    pub(super) fn percentiles(&self) -> Option<(u64, [Duration; 3])> {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let max = self.max.load(Ordering::Relaxed);
        let count: u64 = counts.iter().sum();
        if count == 0 {
            return None;
        }
        let at = |hundredths: u64| {
            // The nearest rank, starting at one.
            let rank = (count * hundredths).div_ceil(100).max(1);
            let mut seen = 0;
            let bucket = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            // The last bucket has no upper bound.
            let upper = bucket.filter(|at| at + 1 < BUCKETS).map_or(max, upper);
            Duration::from_nanos(upper.min(max))
        };
        Some((count, [at(50), at(99), Duration::from_nanos(max)]))
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        // 1 to 1000 us.
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        let (count, [p50, p99, max]) = histogram.percentiles().unwrap();
        assert_eq!(count, 1000);
        assert_eq!(max, Duration::from_micros(1000));
        for (found, exact) in [(p50, 500), (p99, 990)] {
            let exact = Duration::from_micros(exact);
            assert!(
                found >= exact && found <= exact.mul_f64(1.126),
                "{found:?} for {exact:?}"
            );
        }
    }

    #[test]
    fn no_percentile_is_above_the_maximum() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_nanos(1025));
        let (_, found) = histogram.percentiles().unwrap();
        assert_eq!(found, [Duration::from_nanos(1025); 3]);
        histogram.add(Duration::from_secs(100_000));
        let (_, [_, p99, max]) = histogram.percentiles().unwrap();
        assert_eq!([p99, max], [Duration::from_secs(100_000); 2]);
    }
}
