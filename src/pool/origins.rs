//! What was handed out and has not come back, by origin: a number that stands for a route.

use crate::{
    slab::{SHARDS, thread_shard},
    sync::{AtomicU32, AtomicU64, OnceLock, Ordering},
};

/// Origins of the first page. Each further page has twice as many.
const FIRST_PAGE: u32 = 64;

/// Pages. More origins than they hold share none: their blocks are not counted.
const PAGES: usize = 18;

/// One word counts bytes in its lower bits, and blocks above. Sums over shards may borrow from one
/// another: only the sum of all words has a meaning.
const BLOCK: u64 = 1 << 40;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Origins {
    /// Origins that were given out; the last one's number.
    last: AtomicU32,
    pages: [OnceLock<Page>; PAGES],
}

type Page = Box<[OnceLock<Box<Origin>>]>;

#[derive(Debug, Default)]
struct Origin {
    shards: [Shard; SHARDS],
    /// Arenas that their owner left behind, in use by others.
    arenas: AtomicU64,
}

/// Aligned so that two threads seldom share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// What was handed out on behalf of one origin and has not come back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HandedOut {
    /// Blocks of frozen buffers.
    pub(crate) blocks: usize,
    /// Bytes of these blocks.
    pub(crate) bytes: usize,
    /// Arenas that are in use although their request is over.
    pub(crate) arenas: usize,
}

/// The page of an origin, and its place there.
const fn place(origin: u32) -> (usize, usize) {
    let page = ((origin / FIRST_PAGE) + 1).ilog2();
    let first = ((1 << page) - 1) * FIRST_PAGE;
    (page as usize, (origin - first) as usize)
}

impl Origins {
    pub(super) fn new() -> Self {
        Self {
            last: AtomicU32::new(0),
            pages: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// A new origin; zero, which is not counted, if there are too many.
    #[cold]
    pub(super) fn create(&self) -> u32 {
        // Relaxed: the number only has to be a new one. It publishes nothing.
        let next = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                let next = last + 1;
                (place(next).0 < PAGES).then_some(next)
            });
        let Ok(last) = next else {
            return 0;
        };
        let origin = last + 1;
        let (page, at) = place(origin);
        let page = self.pages[page].get_or_init(|| {
            let room = FIRST_PAGE as usize * (1 << page);
            std::iter::repeat_with(OnceLock::new).take(room).collect()
        });
        page[at].get_or_init(Box::default);
        origin
    }

    fn get(&self, origin: u32) -> Option<&Origin> {
        let (page, at) = place(origin);
        Some(self.pages.get(page)?.get()?.get(at)?.get()?)
    }

    fn add(&self, origin: u32, word: u64) {
        if let Some(origin) = self.get(origin) {
            // Relaxed: a figure.
            origin.shards[thread_shard()]
                .0
                .fetch_add(word, Ordering::Relaxed);
        }
    }

    /// A block was handed out.
    pub(super) fn handed_out(&self, origin: u32, bytes: usize) {
        self.add(origin, (bytes as u64).wrapping_add(BLOCK));
    }

    /// The block came back.
    pub(super) fn came_back(&self, origin: u32, bytes: usize) {
        self.add(origin, (bytes as u64).wrapping_add(BLOCK).wrapping_neg());
    }

    /// An arena was left behind, or (`by` is `u64::MAX`) came back.
    pub(super) fn left_behind(&self, origin: u32, by: u64) {
        if let Some(origin) = self.get(origin) {
            origin.arenas.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// What is out now. While threads hand out and return, it was correct at some moment or is off by
    /// what they do meanwhile.
    pub(super) fn out(&self, origin: u32) -> HandedOut {
        let Some(origin) = self.get(origin) else {
            return HandedOut::default();
        };
        let sum = origin.shards.iter().fold(0_u64, |sum, shard| {
            sum.wrapping_add(shard.0.load(Ordering::Relaxed))
        });
        let arenas = origin.arenas.load(Ordering::Relaxed);
        // Negative for a moment, if a return was seen and its start was not.
        let now = |figure: u64| (figure as i64).max(0) as u64;
        HandedOut {
            blocks: (now(sum) / BLOCK) as usize,
            bytes: (now(sum) % BLOCK) as usize,
            arenas: now(arenas) as usize,
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_origin_has_a_place_of_its_own() {
        assert_eq!(
            [0, 63, 64, 191, 192].map(place),
            [(0, 0), (0, 63), (1, 0), (1, 127), (2, 0)]
        );
        let origins = Origins::new();
        let numbers: Vec<u32> = (0..1000).map(|_| origins.create()).collect();
        assert!(numbers.iter().copied().eq(1..=1000));
        for &origin in &numbers {
            origins.handed_out(origin, origin as usize);
        }
        for &origin in &numbers {
            let out = origins.out(origin);
            assert_eq!((out.blocks, out.bytes), (1, origin as usize));
        }
    }

    #[test]
    fn what_one_thread_hands_out_another_one_takes_back() {
        let origins = Origins::new();
        let (first, second) = (origins.create(), origins.create());
        for bytes in [1 << 20, 3000, 5] {
            origins.handed_out(first, bytes);
        }
        origins.handed_out(second, 7);
        origins.left_behind(first, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| origins.came_back(first, 3000));
        });
        let out = |blocks, bytes, arenas| HandedOut {
            blocks,
            bytes,
            arenas,
        };
        assert_eq!(origins.out(first), out(2, (1 << 20) + 5, 1));
        assert_eq!(origins.out(second), out(1, 7, 0));
        origins.left_behind(first, u64::MAX);
        origins.came_back(first, 1 << 20);
        origins.came_back(first, 5);
        assert_eq!(origins.out(first), HandedOut::default());
        assert_eq!(origins.out(0), HandedOut::default(), "not counted");
    }
}
