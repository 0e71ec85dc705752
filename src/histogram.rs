//! Buckets of a log-linear histogram.
//!
//! Values below [`PARTS`] have a bucket each. Above, every power of two is divided into [`PARTS`]
//! buckets of equal width, so a value and the upper bound of its bucket differ by at most an
//! eighth. A user keeps its own counts: it decides which buckets it needs, and how they are
//! written.

/// Buckets per power of two.
pub(crate) const PARTS: usize = 1 << PARTS_BITS;
const PARTS_BITS: u32 = 3;

/// The bucket of `value`.
pub(crate) const fn bucket(value: u64) -> usize {
    let power = value.checked_ilog2();
    match power {
        Some(power) if power >= PARTS_BITS => {
            // The bits after the highest one.
            let part = (value >> (power - PARTS_BITS)) as usize % PARTS;
            (power - PARTS_BITS + 1) as usize * PARTS + part
        }
        _ => value as usize,
    }
}

/// The highest value of `bucket`.
pub(crate) const fn upper(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, (bucket % PARTS) as u64);
    if power == 0 {
        return part;
    }
    let width = 1 << (power - 1);
    // Not `+ 1` before the multiplication: the last bucket ends at `u64::MAX`.
    (PARTS as u64 + part) * width + (width - 1)
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAST: usize = bucket(u64::MAX);

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        assert_eq!(bucket(0), 0);
        for at in 0..LAST {
            assert_eq!(bucket(upper(at)), at, "last of {at}");
            assert_eq!(bucket(upper(at) + 1), at + 1, "first after {at}");
        }
        assert_eq!(upper(LAST), u64::MAX);
    }

    /// Values of all magnitudes.
    fn value() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_upper_bound_is_at_most_an_eighth_too_high(value in value()) {
            let upper = upper(bucket(value));
            prop_assert!(upper >= value && upper - value <= value / PARTS as u64);
        }

        #[test]
        fn a_larger_value_is_in_no_lower_bucket(values in [value(), value()]) {
            let [low, high] = [values[0].min(values[1]), values[0].max(values[1])];
            prop_assert!(bucket(low) <= bucket(high));
        }
    }
}
