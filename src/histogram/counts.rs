use super::buckets::{bucket, middle, upper};

/// The counts of a histogram, as they are read: those of buckets that are not empty, in ascending
/// order. Values of zero are in none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts(Vec<(u16, u64)>);

impl Counts {
    pub(super) fn new(counts: Vec<(u16, u64)>) -> Self {
        Self(counts)
    }

    /// Iterates over the buckets: highest value, and number of values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|&(at, count)| (upper(at.into()), count))
    }

    /// The number of values that are not zero.
    fn total(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.1).sum()
    }

    /// Returns the `rank`-th of `count` values, starting at one, as the middle of its bucket. The last
    /// one is `max`.
    pub(crate) fn at(&self, rank: u64, count: u64, max: u64) -> u64 {
        if rank >= count {
            return max;
        }
        let mut seen = count.saturating_sub(self.total());
        if rank <= seen {
            return 0;
        }
        let found = self.0.iter().find(|bucket| {
            seen += bucket.1;
            seen >= rank
        });
        found.map_or(max, |found| middle(found.0.into()).min(max))
    }

    /// Adds the counts of another histogram.
    pub(crate) fn merge(&mut self, other: &Self) {
        for &(bucket, count) in &other.0 {
            match self.0.binary_search_by_key(&bucket, |known| known.0) {
                Ok(at) => self.0[at].1 += count,
                Err(at) => self.0.insert(at, (bucket, count)),
            }
        }
    }

    /// Subtracts the counts of the same histogram at an earlier time.
    pub(crate) fn since(&mut self, earlier: &Self) {
        for &(bucket, count) in &earlier.0 {
            if let Ok(at) = self.0.binary_search_by_key(&bucket, |known| known.0) {
                self.0[at].1 = self.0[at].1.saturating_sub(count);
            }
        }
        self.0.retain(|bucket| bucket.1 > 0);
    }

    /// The highest value that the values may have, if their maximum is in `within`.
    pub(crate) fn highest(&self, within: u64) -> u64 {
        match self.0.last() {
            Some(&(last, _)) if usize::from(last) < bucket(within) => upper(last.into()),
            Some(_) => within,
            None => 0,
        }
    }
}
