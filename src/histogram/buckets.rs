//! Which bucket of a histogram a value belongs to.
//!
//! The values from 1 to 32 have a bucket each. Above, every power of two is divided into [`PARTS`]
//! buckets, which are narrower where they begin: so 16 of them keep the middle of each bucket within
//! 3 % of its values, for which buckets of equal width would not suffice.
//!
//! A bucket ends *at* a power of two, so "at most 64 KiB" is a sum of whole buckets.

/// Buckets per power of two.
pub(crate) const PARTS: usize = 16;

/// Powers of two that have buckets of their own. The first one is for 1 to 16.
pub(super) const POWERS: usize = bucket(u64::MAX) / PARTS + 1;

/// The middle of a bucket and a value in it differ by at most this part of the value.
#[cfg(all(test, not(tower_memory_loom)))]
pub(super) const ERROR: f64 = 0.03;

/// Where the buckets of a power of two begin, in parts of 1/32.
const STARTS: [u64; PARTS + 1] = [0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 26, 29, 32];

/// The bucket of each part of 1/32.
const BUCKETS: [u8; 32] = {
    let mut buckets = [0; 32];
    let (mut part, mut bucket) = (0, 0);
    while part < buckets.len() {
        if part as u64 == STARTS[bucket as usize + 1] {
            bucket += 1;
        }
        buckets[part] = bucket;
        part += 1;
    }
    buckets
};

/// The bucket of `value`; zero is in that of 1.
#[inline]
pub(crate) const fn bucket(value: u64) -> usize {
    let (power, part) = split(value);
    power * PARTS + part
}

/// The bucket of `value`: the power of two, and which one of it.
#[inline]
pub(super) const fn split(value: u64) -> (usize, usize) {
    // From here on a bucket begins at a power of two.
    let value = value.saturating_sub(1);
    if value < 2 * PARTS as u64 {
        let value = value as usize;
        return (value / PARTS, value % PARTS);
    }
    // `ilog2` in the form that is one instruction.
    let power = value.leading_zeros() ^ 63;
    // The five bits after the highest one.
    let part = (value >> (power - 5)) as usize % BUCKETS.len();
    (power as usize - 3, BUCKETS[part] as usize)
}

/// The highest value of `bucket`.
pub(crate) const fn upper(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    if power < 2 {
        return bucket as u64 + 1;
    }
    // The last bucket ends at `u64::MAX`.
    let end = (32 + STARTS[part + 1] as u128) << (power - 2);
    if end > u64::MAX as u128 {
        u64::MAX
    } else {
        end as u64
    }
}

/// The value in the middle of `bucket`.
pub(super) const fn middle(bucket: usize) -> u64 {
    let above = if bucket == 0 { 0 } else { upper(bucket - 1) };
    above + (upper(bucket) - above).div_ceil(2)
}

#[cfg(all(test, not(tower_memory_loom)))]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAST: usize = bucket(u64::MAX);

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        assert_eq!((bucket(0), bucket(1)), (0, 0));
        for at in 0..LAST {
            assert_eq!(bucket(upper(at)), at, "last of {at}");
            assert_eq!(bucket(upper(at) + 1), at + 1, "first after {at}");
        }
        assert_eq!(upper(LAST), u64::MAX);
        assert_eq!(LAST + 1, POWERS * PARTS);
    }

    #[test]
    fn small_values_are_exact_and_a_bucket_ends_at_each_power_of_two() {
        for value in 1..=32 {
            assert_eq!(
                (upper(bucket(value)), middle(bucket(value))),
                (value, value)
            );
        }
        for power in 0..64 {
            assert_eq!(upper(bucket(1 << power)), 1 << power);
        }
    }

    #[test]
    fn no_two_buckets_together_are_wider_than_an_eighth() {
        // `pool::LearnedSizes` counts by two.
        for at in (32..LAST - 1).step_by(2) {
            let (above, end) = (upper(at - 1), upper(at + 1));
            assert!(end - above <= above / 8, "{at}");
        }
    }

    /// Values of all magnitudes.
    pub(in crate::histogram) fn value() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_middle_is_within_the_stated_error(value in value()) {
            let value = value.max(1);
            let middle = middle(bucket(value));
            prop_assert!(middle.abs_diff(value) as f64 <= ERROR * value as f64, "{middle}");
        }

        #[test]
        fn a_larger_value_is_in_no_lower_bucket(values in [value(), value()]) {
            let [low, high] = [values[0].min(values[1]), values[0].max(values[1])];
            prop_assert!(bucket(low) <= bucket(high));
        }
    }
}
