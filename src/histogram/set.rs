use super::{
    buckets::{PARTS, POWERS, split},
    counts::Counts,
};
use crate::account::aside;

/// A histogram has no chunk for a power of two.
const NONE: u8 = u8::MAX;

/// A histogram takes no more chunks than this.
pub(crate) const LARGEST: usize = POWERS;

/// More than [`POWERS`], so that an index needs no check.
const PLACES: usize = 64;

/// Chunks that are allocated together, with the first value. So most histograms allocate once.
const FIRST: usize = 24;

/// `N` histograms that share room for `CHUNKS` powers of two.
///
/// The room is taken when a value of another magnitude is first added, so a histogram costs what its
/// values are spread over: 64 bytes for each power of two. If all of it is taken, a value is counted in
/// the nearest bucket that there is. Sums and maxima are exact in any case.
#[derive(Debug, Clone)]
pub(crate) struct Histograms<const N: usize, const CHUNKS: usize> {
    /// Rarely written: a thread that adds values finds these lines in its cache, whichever thread did it before.
    places: [Places; N],
    sums: [Sums; N],
    chunks: Vec<Chunk>,
    /// Counts that have passed the highest `u32`: histogram, bucket, and how often.
    wrapped: Vec<(u16, u16, u32)>,
}

/// The chunk of each power of two, or [`NONE`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
struct Places([u8; PLACES]);

impl Places {
    const NONE: Self = Self([NONE; PLACES]);
}

/// The counts of the buckets of a power of two, in one line of the processor's cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Chunk([u32; PARTS]);

#[derive(Debug, Clone, Copy)]
struct Sums {
    count: u64,
    total: u64,
    max: u64,
}

impl<const N: usize, const CHUNKS: usize> Default for Histograms<N, CHUNKS> {
    fn default() -> Self {
        const { assert!(N <= CHUNKS && CHUNKS <= NONE as usize) };
        let none = Sums {
            count: 0,
            total: 0,
            max: 0,
        };
        Self {
            places: [Places::NONE; N],
            sums: [none; N],
            chunks: Vec::new(),
            wrapped: Vec::new(),
        }
    }
}

impl<const N: usize, const CHUNKS: usize> Histograms<N, CHUNKS> {
    /// Adds values to one of the histograms, each so many times.
    #[inline]
    pub(crate) fn extend(&mut self, which: usize, values: impl IntoIterator<Item = (u64, u32)>) {
        // Written once, since each store to a chunk might have changed them.
        let mut sums = self.sums[which];
        for (value, times) in values {
            sums.count += u64::from(times);
            if value == 0 {
                continue;
            }
            // Not checked for an overflow: 584 years of nanoseconds, or as many bytes.
            let sum = value.wrapping_mul(u64::from(times));
            sums.total = sums.total.wrapping_add(sum);
            sums.max = sums.max.max(value);
            let (power, part) = split(value);
            let chunk = self.places[which].0[power % PLACES];
            let Some(Chunk(counts)) = self.chunks.get_mut(usize::from(chunk)) else {
                self.add_elsewhere(which, power, part, times);
                continue;
            };
            let count = &mut counts[part % PARTS];
            let (sum, wraps) = count.overflowing_add(times);
            *count = sum;
            if wraps {
                self.wrap(which, power * PARTS + part);
            }
        }
        self.sums[which] = sums;
    }

    /// Adds a value for which there is no chunk.
    #[cold]
    #[inline(never)]
    fn add_elsewhere(&mut self, which: usize, power: usize, part: usize, times: u32) {
        // Each histogram can have one.
        let others = self.places.iter().enumerate();
        let kept = others
            .filter(|(other, places)| *other != which && **places == Places::NONE)
            .count();
        if self.chunks.len() + kept < CHUNKS {
            self.places[which].0[power] = self.chunks.len() as u8;
            let len = self.chunks.len();
            if len == self.chunks.capacity() {
                let more = len.max(FIRST).min(CHUNKS - len);
                aside(|| self.chunks.reserve_exact(more));
            }
            let mut chunk = [0; PARTS];
            chunk[part] = times;
            self.chunks.push(Chunk(chunk));
            return;
        }
        let chunks = &self.places[which].0;
        let has = |at: &usize| chunks[*at] != NONE;
        let (chunk, part) = match (power..POWERS).find(has) {
            Some(above) => (chunks[above], 0),
            None => (
                (0..power).rev().find(has).map_or(0, |at| chunks[at]),
                PARTS - 1,
            ),
        };
        let count = &mut self.chunks[usize::from(chunk)].0[part];
        *count = count.saturating_add(times);
    }

    #[cold]
    #[inline(never)]
    fn wrap(&mut self, which: usize, bucket: usize) {
        let (which, bucket) = (which as u16, bucket as u16);
        let mut known = self.wrapped.iter_mut();
        match known.find(|known| (known.0, known.1) == (which, bucket)) {
            Some(known) => known.2 = known.2.saturating_add(1),
            None => aside(|| self.wrapped.push((which, bucket, 1))),
        }
    }

    /// Returns count, sum and maximum of a histogram.
    pub(crate) fn totals(&self, which: usize) -> [u64; 3] {
        let Sums { count, total, max } = self.sums[which];
        [count, total, max]
    }

    /// Returns the counts of a histogram.
    pub(crate) fn counts(&self, which: usize) -> Counts {
        let chunks = self.places[which].0.iter().enumerate();
        let chunks = chunks.filter_map(|(power, chunk)| {
            let counts = self.chunks.get(usize::from(*chunk))?;
            Some((power * PARTS, counts.0))
        });
        let counts = chunks.flat_map(|(first, counts)| {
            let counts = counts.into_iter().enumerate();
            counts.map(move |(part, count)| ((first + part) as u16, u64::from(count)))
        });
        let counts = counts.map(|(bucket, count)| {
            let mut wrapped = self.wrapped.iter();
            let wraps = wrapped.find(|known| (known.0, known.1) == (which as u16, bucket));
            let wraps = wraps.map_or(0, |known| u64::from(known.2));
            (bucket, count + (wraps << 32))
        });
        Counts::new(counts.filter(|bucket| bucket.1 > 0).collect())
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        super::{
            buckets::{ERROR, bucket, tests::value},
            upper,
        },
        *,
    };

    impl<const N: usize, const CHUNKS: usize> Histograms<N, CHUNKS> {
        fn add(&mut self, which: usize, value: u64, times: u32) {
            self.extend(which, [(value, times)]);
        }
    }

    fn at<const N: usize, const C: usize>(all: &Histograms<N, C>, which: usize, rank: u64) -> u64 {
        let [count, _, max] = all.totals(which);
        all.counts(which).at(rank, count, max)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn each_rank_is_within_the_stated_error_of_the_sorted_list(
            mut values in vec(value(), 1..200),
            other in vec(value(), 0..20),
        ) {
            let mut all = Histograms::<2, { 2 * LARGEST }>::default();
            values.iter().for_each(|value| all.add(0, *value, 1));
            other.iter().for_each(|value| all.add(1, *value, 1));
            values.sort_unstable();
            for (rank, exact) in (1..).zip(&values) {
                let found = at(&all, 0, rank);
                prop_assert!(
                    found.abs_diff(*exact) as f64 <= ERROR * *exact as f64,
                    "{found} for {exact}"
                );
            }
            let total = values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
            prop_assert_eq!(all.totals(0), [values.len() as u64, total, *values.last().unwrap()]);
            prop_assert_eq!(all.totals(1)[0], other.len() as u64);
        }

        #[test]
        fn a_value_that_is_added_several_times_at_once_is_counted_as_often(
            values in vec((value(), 1..5_u32), 0..50),
        ) {
            let [mut once, mut each] = [(); 2].map(|()| Histograms::<1, 8>::default());
            for (value, times) in values {
                once.add(0, value, times);
                (0..times).for_each(|_| each.add(0, value, 1));
            }
            prop_assert_eq!(once.totals(0), each.totals(0));
            prop_assert_eq!(once.counts(0), each.counts(0));
        }

        #[test]
        fn a_difference_has_the_values_in_between_and_a_sum_has_all(
            earlier in vec(value(), 0..50),
            later in vec(value(), 0..50),
        ) {
            let [mut sum, mut between] = [(); 2].map(|()| Histograms::<1, LARGEST>::default());
            earlier.iter().for_each(|value| sum.add(0, *value, 1));
            let before = sum.counts(0);
            for value in &later {
                sum.add(0, *value, 1);
                between.add(0, *value, 1);
            }
            let (all, between) = (sum.counts(0), between.counts(0));
            let mut since = all.clone();
            since.since(&before);
            prop_assert_eq!(&since, &between);
            let highest = since.highest(sum.totals(0)[2]);
            let max = later.iter().copied().max().unwrap_or(0);
            prop_assert!(highest >= max && bucket(highest) == bucket(max));
            since.merge(&before);
            prop_assert_eq!(since, all);
        }
    }

    #[test]
    fn room_is_taken_for_magnitudes_that_occur_and_never_beyond_the_bound() {
        let mut large = Histograms::<1, LARGEST>::default();
        (0..64).for_each(|power| large.add(0, u64::MAX >> power, 1));
        assert_eq!(
            (large.chunks.len(), large.chunks.capacity()),
            (LARGEST, LARGEST)
        );
        let mut all = Histograms::<3, 8>::default();
        for _ in 0..1000 {
            all.add(0, 1000, 1);
        }
        assert_eq!(all.chunks.len(), 1);
        for power in 0..64 {
            all.add(0, 1 << power, 1);
        }
        assert_eq!(all.chunks.len(), 6, "one is kept for each other histogram");
        all.add(1, u64::MAX, 1);
        all.add(2, 1, 1);
        all.add(2, u64::MAX - 1, 1);
        assert_eq!((all.chunks.len(), all.chunks.capacity()), (8, 8));
        // No value is lost: those without room are in the nearest bucket.
        let counted = |which| all.counts(which).iter().map(|bucket| bucket.1).sum::<u64>();
        assert_eq!([0, 1, 2].map(counted), [1064, 1, 2]);
        let last = all.counts(2).iter().last();
        assert_eq!((at(&all, 2, 1), last), (1, Some((16, 1))), "where 1 is");
        assert_eq!(all.totals(2), [2, u64::MAX, u64::MAX - 1]);
    }

    #[test]
    fn a_count_passes_the_highest_u32() {
        let mut all = Histograms::<1, LARGEST>::default();
        all.add(0, 77, 1);
        for _ in 0..2 {
            all.chunks[0].0[bucket(77) % PARTS] = u32::MAX;
            all.add(0, 77, 1);
        }
        all.add(0, 77, 1);
        let counts: Vec<_> = all.counts(0).iter().collect();
        assert_eq!(counts, [(upper(bucket(77)), (2 << 32) + 1)]);
        all.chunks[0].0[bucket(77) % PARTS] = u32::MAX - 1;
        all.add(0, 77, 3);
        let counts: Vec<_> = all.counts(0).iter().collect();
        assert_eq!(counts, [(upper(bucket(77)), (3 << 32) + 1)]);
    }
}
