use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

/// Each power of two is divided into this many buckets, so a figure is at most 1/8 too high.
const PARTS: u32 = 8;
const PARTS_LOG: u32 = PARTS.ilog2();

// `CancelLatency` says so.
const _: () = assert!(PARTS == 8);

/// Powers of two that are told apart: up to 2^42 ns, which is over an hour.
const POWERS: u32 = 42;

const BUCKETS: usize = (POWERS * PARTS) as usize;

/// How many durations there were of which length, in nanoseconds.
///
/// Bucket `i` of the first eight holds `i` ns; from there on each power of two has eight buckets of
/// the same width. A duration belongs to the bucket whose lower bound is the last not above it.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Box<[AtomicU64]>,
    max: AtomicU64,
}

/// What a histogram says; each percentile is the upper end of its bucket, and none is above the
/// maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

fn bucket(nanos: u64) -> usize {
    let Some(power) = nanos.checked_ilog2().filter(|power| *power >= PARTS_LOG) else {
        // Below eight.
        return nanos as usize;
    };
    let part = (nanos >> (power - PARTS_LOG)) as u32 % PARTS;
    let at = (power - PARTS_LOG + 1) * PARTS + part;
    (at as usize).min(BUCKETS - 1)
}

/// The highest duration of a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, part) = (bucket as u32 / PARTS, bucket as u64 % u64::from(PARTS));
    match power {
        0 => part,
        _ => {
            let width = 1_u64 << (power - 1);
            (u64::from(PARTS) + part + 1) * width - 1
        }
    }
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
        // Relaxed, as below: each figure is true at some moment. The maximum first, so that there
        // is one when there is a count.
        self.max.fetch_max(nanos, Ordering::Relaxed);
        if let Some(count) = self.counts.get(bucket(nanos)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `None` if nothing was added.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
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
            // The nearest rank, which begins at one.
            let rank = (count * hundredths).div_ceil(100).max(1);
            let mut seen = 0;
            let bucket = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            // The last bucket has no upper end.
            let upper = bucket.filter(|at| at + 1 < BUCKETS).map_or(max, upper);
            Duration::from_nanos(upper.min(max))
        };
        Some(Percentiles {
            count,
            p50: at(50),
            p99: at(99),
            max: Duration::from_nanos(max),
        })
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for at in 1..BUCKETS - 1 {
            let first = upper(at - 1) + 1;
            assert_eq!(bucket(first), at, "first of {at}");
            assert_eq!(bucket(upper(at)), at, "last of {at}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_at_most_an_eighth_wide() {
        for nanos in (0..40).map(|power| (1_u64 << power) + (1 << power) / 3) {
            let upper = upper(bucket(nanos));
            assert!(
                upper >= nanos && upper - nanos <= nanos / 8,
                "{nanos}: {upper}"
            );
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        // 1 to 1000 us.
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        let found = histogram.percentiles().unwrap();
        assert_eq!(found.count, 1000);
        assert_eq!(found.max, Duration::from_micros(1000));
        for (found, exact) in [(found.p50, 500), (found.p99, 990)] {
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
        let found = histogram.percentiles().unwrap();
        assert_eq!(
            [found.p50, found.p99, found.max],
            [Duration::from_nanos(1025); 3]
        );
        histogram.add(Duration::from_secs(100_000));
        let found = histogram.percentiles().unwrap();
        assert_eq!([found.p99, found.max], [Duration::from_secs(100_000); 2]);
    }
}
