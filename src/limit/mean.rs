//! What requests of one route hold at their height: a mean that forgets, in one word.

/// Requests that the mean is taken over, once there were as many.
const WINDOW: u64 = 128;

/// One in so many requests is counted once the window is full.
const SAMPLED: u64 = 8;

/// Bits of the word that hold the number of requests counted, at most [`WINDOW`].
const COUNT_BITS: u32 = 8;

/// The largest mean that fits.
const LARGEST: u64 = u64::MAX >> COUNT_BITS;

/// Mean bytes, and how many requests it is taken over. The default knows none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MeanPeak(u64);

impl MeanPeak {
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    const fn count(self) -> u64 {
        self.0 & ((1 << COUNT_BITS) - 1)
    }

    /// The mean, if a request was counted.
    pub(crate) fn get(self) -> Option<u64> {
        (self.count() > 0).then_some(self.0 >> COUNT_BITS)
    }

    /// Whether a request is to be counted, by a random number: the first ones all, later ones seldom, so
    /// that threads do not fight for the word.
    pub(crate) const fn counts(self, random: u64) -> bool {
        self.count() < WINDOW || random % SAMPLED == 0
    }

    /// The mean after a request that held `peak` bytes.
    pub(crate) fn with(self, peak: u64) -> Self {
        let peak = peak.min(LARGEST);
        let count = (self.count() + 1).min(WINDOW);
        let mean = self.0 >> COUNT_BITS;
        let mean = if peak > mean {
            mean + (peak - mean) / count
        } else {
            mean - (mean - peak) / count
        };
        Self(mean << COUNT_BITS | count)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_request() {
        assert_eq!(MeanPeak::default().get(), None);
        assert_eq!(MeanPeak::default().with(0).get(), Some(0));
    }

    #[test]
    fn the_first_requests_weigh_the_same() {
        let mean = [10, 20, 60]
            .into_iter()
            .fold(MeanPeak::default(), MeanPeak::with);
        assert_eq!(mean.get(), Some(30));
    }

    #[test]
    fn the_mean_forgets_and_survives_its_word() {
        let mut mean = (0..1000).fold(MeanPeak::default(), |mean, _| mean.with(1 << 20));
        assert_eq!(mean.get(), Some(1 << 20));
        for _ in 0..5 * WINDOW {
            mean = MeanPeak::from_word(mean.with(2 << 20).word());
        }
        let mean = mean.get().unwrap();
        assert!(mean > 2_080_000 && mean <= 2 << 20, "{mean}");
    }

    #[test]
    fn absurd_peaks_neither_overflow_nor_stay() {
        let mut mean = MeanPeak::default().with(u64::MAX);
        assert_eq!(mean.get(), Some(LARGEST));
        for _ in 0..100 * WINDOW {
            mean = mean.with(100);
        }
        assert!(mean.get().unwrap() <= 100 + WINDOW);
    }

    #[test]
    fn one_in_eight_is_counted_once_the_window_is_full() {
        let full = (0..WINDOW).fold(MeanPeak::default(), |mean, _| mean.with(1));
        assert!((0..80).all(|random| MeanPeak::default().counts(random)));
        assert_eq!((0..80).filter(|&random| full.counts(random)).count(), 10);
    }
}
