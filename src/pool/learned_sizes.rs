use crate::{
    histogram::{PARTS, bucket, upper},
    sync::{AtomicU32, AtomicUsize, OnceLock, Ordering::Relaxed},
};

/// The lowest bucket also counts everything smaller.
const LOWEST: usize = bucket(64);

/// The last bucket also counts everything larger.
const BUCKETS: usize = bucket(1 << 32) - LOWEST;

/// After this many counted requests, all counts are halved, so old requests fade.
const WINDOW: u32 = 512;

/// Requests between two computations of the size.
const EVERY: u32 = 16;

/// After the first window, one request in eight is counted.
const SAMPLE_MASK: u64 = 7;

/// One request in this many may need more than the learned size.
const ONE_ABOVE: u32 = 20;

// `RequestScope::arena` and `RouteSnapshot::learned_arena_bytes` say so: the size that suits 95 %,
// rounded up by at most an eighth.
const _: () = assert!(100 - 100 / ONE_ABOVE == 95 && PARTS == 8);

/// The arena size that 95 % of a route's recent requests did not exceed.
///
/// A histogram whose counts are halved every [`WINDOW`] counted requests: a route that changes is
/// learned again, and single requests are forgotten. Counting takes no lock and no
/// read-modify-write. Two requests at the same moment may count as one, which does not change the
/// size noticeably.
#[derive(Debug)]
struct LearnedSize {
    /// The size in bytes; zero before the first request.
    bytes: AtomicUsize,
    counted: AtomicU32,
    /// Nonzero once the first window is full, so that a sample suffices.
    settled: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

/// The index into `buckets` for a number of bytes.
fn index(bytes: usize) -> usize {
    bucket(bytes as u64).saturating_sub(LOWEST).min(BUCKETS - 1)
}

impl LearnedSize {
    fn new() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            counted: AtomicU32::new(0),
            settled: AtomicU32::new(0),
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// The size; `None` before the first request.
    #[inline]
    fn bytes(&self) -> Option<usize> {
        // Relaxed: a hint.
        let bytes = self.bytes.load(Relaxed);
        (bytes > 0).then_some(bytes)
    }

    /// Records that a request used `bytes` of its arena. After the first window, `chance` decides
    /// whether the request is counted; it is any number that differs between requests.
    fn record(&self, bytes: usize, chance: u64) {
        if self.settled.load(Relaxed) != 0 && chance & SAMPLE_MASK != 0 {
            return;
        }
        let count = &self.buckets[index(bytes)];
        count.store(count.load(Relaxed).saturating_add(1), Relaxed);
        let counted = self.counted.load(Relaxed) + 1;
        self.counted.store(counted, Relaxed);
        if counted >= WINDOW {
            self.fade();
        } else if counted <= EVERY || counted % EVERY == 0 {
            self.compute();
        }
    }

    /// Halves all counts.
    #[cold]
    fn fade(&self) {
        self.compute();
        let mut left = 0;
        for count in &self.buckets {
            let half = count.load(Relaxed) / 2;
            count.store(half, Relaxed);
            left += half;
        }
        self.counted.store(left.min(WINDOW / 2), Relaxed);
        self.settled.store(1, Relaxed);
    }

    #[cold]
    fn compute(&self) {
        let total: u32 = self.buckets.iter().map(|count| count.load(Relaxed)).sum();
        // The number of requests that may need more.
        let above = total / ONE_ABOVE;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate().rev() {
            seen += count.load(Relaxed);
            if seen > above {
                self.bytes.store(upper(LOWEST + index) as usize, Relaxed);
                return;
            }
        }
    }
}

/// The learned sizes of all routes, by route number.
#[derive(Debug)]
pub(crate) struct LearnedSizes {
    routes: Box<[OnceLock<Box<LearnedSize>>]>,
}

impl LearnedSizes {
    pub(crate) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
        }
    }

    /// The size of a route; `None` before its first request with an arena.
    #[inline]
    pub(crate) fn bytes(&self, route: usize) -> Option<usize> {
        self.routes.get(route)?.get()?.bytes()
    }

    /// Records the arena use of a request. See [`LearnedSize::record`].
    pub(crate) fn record(&self, route: usize, bytes: usize, chance: u64) {
        if let Some(route) = self.routes.get(route) {
            let learned = route.get_or_init(|| Box::new(LearnedSize::new()));
            learned.record(bytes, chance);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_from_64_bytes_to_4_gib_are_told_apart() {
        assert_eq!((index(0), index(71), index(72)), (0, 0, 1));
        assert_eq!(index(u32::MAX as usize), BUCKETS - 1);
        assert_eq!(index(usize::MAX), BUCKETS - 1);
        assert_eq!(upper(LOWEST + BUCKETS - 1), u64::from(u32::MAX));
    }

    #[test]
    fn nothing_is_known_at_first_and_one_request_is_enough_to_begin() {
        let learned = LearnedSize::new();
        assert_eq!(learned.bytes(), None);
        learned.record(1000, 1);
        assert!((1000..1125).contains(&learned.bytes().unwrap()));
    }

    #[test]
    fn the_size_is_what_nineteen_of_twenty_do_not_exceed() {
        let learned = LearnedSize::new();
        for n in 0..10_000_u64 {
            learned.record(if n % 25 == 0 { 1_000_000 } else { 20_000 }, n / 25);
        }
        assert!((20_000..22_500).contains(&learned.bytes().unwrap()));
        for n in 0..10_000_u64 {
            learned.record(if n % 10 == 0 { 1_000_000 } else { 20_000 }, n / 10);
        }
        assert!(learned.bytes().unwrap() >= 1_000_000);
    }

    #[test]
    fn a_route_that_needs_less_than_before_is_learned_anew() {
        let learned = LearnedSize::new();
        for n in 0..5_000 {
            learned.record(500_000, n);
        }
        assert!(learned.bytes().unwrap() >= 500_000);
        for n in 0..20_000 {
            learned.record(3_000, n);
        }
        assert!((3_000..3_400).contains(&learned.bytes().unwrap()));
    }

    #[test]
    fn requests_of_one_size_never_exceed_what_was_learned() {
        for size in [1, 100, 4097, 16_385, 123_457] {
            let learned = LearnedSize::new();
            for n in 0..5_000 {
                learned.record(size, n);
                assert!(learned.bytes().unwrap() >= size);
            }
        }
    }
}
