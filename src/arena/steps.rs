//! The sizes of blocks: 1, 1.5, 2, 3, 4, 6, ... KiB.

const SMALLEST: usize = 1024;

/// Larger sizes are counted as this step, of 96 GiB.
pub(crate) const LAST: usize = 53;

/// The size of a step in bytes.
#[inline]
pub(crate) const fn size(step: usize) -> usize {
    let step = if step < LAST { step } else { LAST };
    // Two steps for each power of two: itself, and one and a half of it.
    let shifted = (SMALLEST as u64 + (step % 2 * SMALLEST / 2) as u64) << (step / 2);
    if shifted > isize::MAX as u64 {
        isize::MAX as usize
    } else {
        shifted as usize
    }
}

/// The lowest step that holds `bytes`, or the last one.
#[inline]
pub(crate) const fn holding(bytes: usize) -> usize {
    if bytes <= SMALLEST {
        return 0;
    }
    let power = (bytes - 1).ilog2();
    // In the upper half of the power, or in the lower one.
    let upper = (bytes - 1) >> (power - 1) & 1;
    let step = (power - SMALLEST.ilog2()) as usize * 2 + upper + 1;
    if step < LAST { step } else { LAST }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_step_holds_what_it_was_chosen_for_and_the_one_below_does_not() {
        assert_eq!([0, 1, 2, 3, 4].map(size), [1024, 1536, 2048, 3072, 4096]);
        // On 32-bit machines the last steps are larger than the address space.
        for step in (0..LAST).take_while(|step| size(step + 1) < isize::MAX as usize) {
            assert!(size(step) < size(step + 1));
            assert_eq!(holding(size(step)), step);
            assert_eq!(holding(size(step) + 1), step + 1);
        }
        let last = if usize::BITS < 64 { 44 } else { LAST };
        assert_eq!((holding(0), holding(usize::MAX)), (0, last));
    }
}
