use crate::{
    account::aside,
    arena::{RentedFor, steps},
    histogram::{PARTS, bucket, upper},
    sync::{AtomicU32, OnceLock, Ordering::Relaxed},
};

/// Arena sizes are counted by two buckets of a histogram together. The lowest two also count everything
/// smaller.
const LOWEST: usize = bucket(64) / 2;

/// The last two also count everything larger.
const BUCKETS: usize = bucket(1 << 32) / 2 - LOWEST + 1;

/// Buffer sizes are counted by the step of the block that holds them.
const STEPS: usize = steps::LAST + 1;

/// After this many counted requests, all counts are halved, so old requests fade.
const WINDOW: u32 = 512;

/// Requests between two computations of the size.
const EVERY: u32 = 16;

/// After the first window, one request in eight is counted.
const SAMPLE_MASK: u64 = 7;

/// One request in this many may need more than the learned size.
const ONE_ABOVE: u32 = 20;

/// Requests that need more than this many times the median do not count: they are another kind, for
/// which the others must not reserve memory.
const OF_A_KIND: usize = 4;

// `RequestScope::arena`, `RouteSnapshot::learned_arena_bytes` and `learned_buffer_bytes` say so: the
// size that suits 95 %, rounded up by at most an eighth.
const _: () = assert!(100 - 100 / ONE_ABOVE == 95 && PARTS == 16 && OF_A_KIND == 4);

/// The size that 95 % of a route's recent requests did not exceed, among those that needed at most
/// four times the median. Sizes are buckets; `DOUBLED` of them make twice the size.
///
/// The counts are halved every [`WINDOW`] counted requests: a route that changes is learned again, and
/// single requests are forgotten. Counting takes no lock and no read-modify-write. Two requests at the
/// same moment may count as one, which does not change the size noticeably.
#[derive(Debug)]
struct Learned<const BUCKETS: usize, const DOUBLED: usize> {
    /// One more than the learned bucket; zero before the first request.
    bucket: AtomicU32,
    counted: AtomicU32,
    /// Nonzero once the first window is full, so that a sample suffices.
    settled: AtomicU32,
    counts: [AtomicU32; BUCKETS],
}

impl<const BUCKETS: usize, const DOUBLED: usize> Learned<BUCKETS, DOUBLED> {
    fn new() -> Self {
        Self {
            bucket: AtomicU32::new(0),
            counted: AtomicU32::new(0),
            settled: AtomicU32::new(0),
            counts: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// The bucket; `None` before the first request.
    #[inline]
    fn bucket(&self) -> Option<usize> {
        // Relaxed: a hint.
        (self.bucket.load(Relaxed) as usize).checked_sub(1)
    }

    /// Records the bucket of a request. After the first window, `chance` decides whether the request is
    /// counted; it is any number that differs between requests.
    fn record(&self, bucket: usize, chance: u64) {
        if self.settled.load(Relaxed) != 0 && chance & SAMPLE_MASK != 0 {
            return;
        }
        let count = &self.counts[bucket.min(BUCKETS - 1)];
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
        for count in &self.counts {
            let half = count.load(Relaxed) / 2;
            count.store(half, Relaxed);
            left += half;
        }
        self.counted.store(left.min(WINDOW / 2), Relaxed);
        self.settled.store(1, Relaxed);
    }

    #[cold]
    fn compute(&self) {
        let counts = || self.counts.iter().map(|count| count.load(Relaxed));
        let half = counts().sum::<u32>().div_ceil(2);
        let mut seen = 0;
        let median = counts().position(|count| {
            seen += count;
            count > 0 && seen >= half
        });
        let Some(median) = median else {
            return;
        };
        let kind = (median + DOUBLED * OF_A_KIND.ilog2() as usize + 1).min(BUCKETS);
        // The number of requests of this kind that may need more.
        let above = counts().take(kind).sum::<u32>() / ONE_ABOVE;
        let mut seen = 0;
        let last = self.counts[..kind].iter().rposition(|count| {
            seen += count.load(Relaxed);
            seen > above
        });
        if let Some(last) = last {
            self.bucket.store(last as u32 + 1, Relaxed);
        }
    }
}

/// The sizes of one route: what its requests allocate in their arenas, and their largest buffers.
#[derive(Debug)]
struct RouteSizes {
    arena: Learned<BUCKETS, { PARTS / 2 }>,
    buffer: Learned<STEPS, 2>,
    /// See [`RentedFor`].
    origin: u32,
}

impl RouteSizes {
    #[cold]
    fn new(origin: u32) -> Box<Self> {
        Box::new(Self {
            arena: Learned::new(),
            buffer: Learned::new(),
            origin,
        })
    }
}

/// The learned sizes of all routes, by route number.
#[derive(Debug)]
pub(crate) struct LearnedSizes {
    routes: Box<[OnceLock<Box<RouteSizes>>]>,
}

/// The bucket for a number of bytes of an arena.
fn index(bytes: usize) -> usize {
    let bucket = bucket(bytes as u64) / 2;
    bucket.saturating_sub(LOWEST).min(BUCKETS - 1)
}

/// The highest number of bytes with this [`index`].
fn highest(index: usize) -> usize {
    usize::try_from(upper(2 * (LOWEST + index) + 1)).unwrap_or(usize::MAX)
}

impl LearnedSizes {
    pub(crate) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
        }
    }

    /// Bytes for the arena of a route's requests; `None` before the first request that allocated in
    /// its arena.
    #[inline]
    pub(crate) fn arena_bytes(&self, route: usize) -> Option<usize> {
        let bucket = self.routes.get(route)?.get()?.arena.bucket()?;
        Some(highest(bucket))
    }

    /// Bytes for the largest buffer of a route's requests; `None` before the first request that had a
    /// buffer.
    pub(crate) fn buffer_bytes(&self, route: usize) -> Option<usize> {
        let step = self.routes.get(route)?.get()?.buffer.bucket()?;
        Some(steps::size(step))
    }

    /// What the arena of one of the route's requests has to know. `new_origin` is called for the first
    /// one.
    #[inline]
    pub(crate) fn rented_for(&self, route: usize, new_origin: impl FnOnce() -> u32) -> RentedFor {
        let Some(route) = self.routes.get(route) else {
            return RentedFor::default();
        };
        let sizes = route.get_or_init(|| aside(|| RouteSizes::new(new_origin())));
        let step = sizes.buffer.bucket().unwrap_or(0);
        RentedFor::new(step as u8, sizes.origin)
    }

    /// The number under which blocks that the route's requests hand out are counted; `None` before the
    /// first request with an arena.
    pub(crate) fn origin(&self, route: usize) -> Option<u32> {
        Some(self.routes.get(route)?.get()?.origin)
    }

    /// Records what a request allocated in its arena, and its largest buffer; zero is not recorded.
    /// See [`Learned::record`].
    pub(crate) fn record(&self, route: usize, arena: usize, buffer: usize, chance: u64) {
        if arena == 0 && buffer == 0 {
            return;
        }
        let Some(route) = self.routes.get(route) else {
            return;
        };
        let sizes = route.get_or_init(|| aside(|| RouteSizes::new(0)));
        if arena > 0 {
            sizes.arena.record(index(arena), chance);
        }
        if buffer > 0 {
            sizes.buffer.record(steps::holding(buffer), chance);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_from_64_bytes_to_4_gib_are_told_apart() {
        assert_eq!((index(0), index(64), index(65)), (0, 0, 1));
        assert_eq!(index(u32::MAX as usize), BUCKETS - 1);
        assert_eq!(index(usize::MAX), BUCKETS - 1);
        assert!(highest(BUCKETS - 1) >= u32::MAX as usize);
        for bytes in [64, 65, 1000, 4097, 1 << 20, 3_000_000_000] {
            let learned = highest(index(bytes));
            assert!(learned >= bytes && learned - bytes <= bytes / 8);
        }
    }

    /// The arena sizes of one route.
    struct Sizes(LearnedSizes);

    impl Sizes {
        fn new() -> Self {
            Self(LearnedSizes::new(1))
        }

        fn record(&self, bytes: usize, chance: u64) {
            self.0.record(0, bytes, 0, chance);
        }

        fn bytes(&self) -> Option<usize> {
            self.0.arena_bytes(0)
        }
    }

    #[test]
    fn nothing_is_known_at_first_and_one_request_is_enough_to_begin() {
        let learned = Sizes::new();
        assert_eq!(learned.bytes(), None);
        learned.record(1000, 1);
        assert!((1000..1125).contains(&learned.bytes().unwrap()));
        assert_eq!(learned.0.buffer_bytes(0), None);
        learned.0.record(0, 0, 65_536, 1);
        assert_eq!(learned.0.buffer_bytes(0), Some(65_536), "not rounded up");
    }

    #[test]
    fn the_size_is_what_nineteen_of_twenty_do_not_exceed() {
        let learned = Sizes::new();
        for n in 0..10_000_u64 {
            learned.record(if n % 25 == 0 { 60_000 } else { 20_000 }, n / 25);
        }
        assert!((20_000..22_500).contains(&learned.bytes().unwrap()));
        for n in 0..10_000_u64 {
            learned.record(if n % 10 == 0 { 60_000 } else { 20_000 }, n / 10);
        }
        assert!(learned.bytes().unwrap() >= 60_000);
    }

    #[test]
    fn a_minority_of_large_requests_reserves_nothing_for_the_others() {
        let sizes = LearnedSizes::new(1);
        for n in 0..10_000_u64 {
            let bytes = if n % 10 == 0 { 500_000 } else { 500 };
            sizes.record(0, bytes, bytes, n / 10);
        }
        assert!((500..563).contains(&sizes.arena_bytes(0).unwrap()));
        assert_eq!(sizes.buffer_bytes(0), Some(1024));
    }

    #[test]
    fn a_route_that_needs_less_than_before_is_learned_anew() {
        let learned = Sizes::new();
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
            let learned = Sizes::new();
            for n in 0..5_000 {
                learned.record(size, n);
                assert!(learned.bytes().unwrap() >= size);
            }
        }
    }
}
