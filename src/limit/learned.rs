//! What a layer has learnt about its routes: the mean of what their requests hold at their height.

use super::{mean::MeanPeak, pressure::Priority};
use crate::{
    account::aside,
    route::{KnownMethod, RouteKey, UNMATCHED},
    sync::{AtomicU8, AtomicU64, OnceLock, Ordering::Relaxed},
};

/// The routes of one layer, by number and method.
pub(crate) struct LearnedPeaks {
    routes: Box<[OnceLock<Box<[Entry; KnownMethod::COUNT]>>]>,
    /// Of all requests, for those whose route is not known yet.
    all: AtomicU64,
}

/// One route and method.
pub(crate) struct Entry {
    mean: AtomicU64,
    /// The least that a request held at its height.
    smallest: AtomicU64,
    /// One more than the position of the priority that a policy has set, or zero.
    priority: AtomicU8,
    /// What would have been done to requests in [`LimitMode::Observe`](super::LimitMode::Observe).
    pub(super) would_refuse: AtomicU64,
    pub(super) would_cancel: AtomicU64,
    pub(super) would_exceed: AtomicU64,
    /// The minute of the last warning about the route, plus one.
    warned: AtomicU64,
}

impl Entry {
    fn new() -> Self {
        Self {
            mean: AtomicU64::new(0),
            smallest: AtomicU64::new(u64::MAX),
            priority: AtomicU8::new(0),
            would_refuse: AtomicU64::new(0),
            would_cancel: AtomicU64::new(0),
            would_exceed: AtomicU64::new(0),
            warned: AtomicU64::new(0),
        }
    }

    pub(crate) fn would_refuse(&self) -> u64 {
        self.would_refuse.load(Relaxed)
    }

    pub(crate) fn would_cancel(&self) -> u64 {
        self.would_cancel.load(Relaxed)
    }

    pub(crate) fn would_exceed(&self) -> u64 {
        self.would_exceed.load(Relaxed)
    }

    /// The least that a request held, if one has closed.
    pub(super) fn smallest(&self) -> Option<u64> {
        Some(self.smallest.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// The priority that a policy has set.
    #[inline]
    pub(super) fn priority(&self) -> Option<Priority> {
        let code = self.priority.load(Relaxed);
        Priority::ALL
            .get(usize::from(code).checked_sub(1)?)
            .copied()
    }

    /// Whether to warn about the route, which is done once per minute.
    pub(super) fn warns(&self, minute: u64) -> bool {
        self.warned.swap(minute + 1, Relaxed) != minute + 1
    }
}

// Relaxed throughout: figures. Of two requests that close at the same moment one may be forgotten.
impl LearnedPeaks {
    pub(crate) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
            all: AtomicU64::new(0),
        }
    }

    /// The figures of a route, if there are any.
    #[inline]
    pub(crate) fn get(&self, key: RouteKey) -> Option<&Entry> {
        Some(&self.routes[key.route].get()?[key.method.index()])
    }

    /// The figures of a route.
    pub(super) fn entry(&self, key: RouteKey) -> &Entry {
        let make = || aside(|| Box::new(std::array::from_fn(|_| Entry::new())));
        &self.routes[key.route].get_or_init(make)[key.method.index()]
    }

    /// What a request of the route is expected to hold, if that is known.
    pub(super) fn expected(&self, key: RouteKey) -> Option<u64> {
        self.expected_of(self.get(key), key)
    }

    /// The same of a route with these figures.
    #[inline]
    pub(super) fn expected_of(&self, entry: Option<&Entry>, key: RouteKey) -> Option<u64> {
        let own = entry.and_then(|entry| mean(&entry.mean));
        if own.is_none() && key.route == UNMATCHED {
            return mean(&self.all);
        }
        own
    }

    /// A policy has set the priority of a request of the route.
    pub(super) fn set_priority(&self, key: RouteKey, priority: Priority) {
        let code = priority.index() as u8 + 1;
        let known = &self.entry(key).priority;
        if known.load(Relaxed) != code {
            known.store(code, Relaxed);
        }
    }

    /// A request has closed, which held `peak` bytes at its height.
    #[inline]
    pub(super) fn learn(&self, key: RouteKey, peak: u64, random: u64) {
        let entry = self.entry(key);
        if peak < entry.smallest.load(Relaxed) {
            entry.smallest.store(peak, Relaxed);
        }
        // Less often to the mean of all than to that of a route, which fewer threads write.
        if add(&entry.mean, peak, random) {
            add(&self.all, peak, random / 8);
        }
    }
}

fn mean(word: &AtomicU64) -> Option<u64> {
    MeanPeak::from_word(word.load(Relaxed)).get()
}

/// Adds a request to a mean, unless that passes over it.
#[inline]
fn add(word: &AtomicU64, peak: u64, random: u64) -> bool {
    let mean = MeanPeak::from_word(word.load(Relaxed));
    let counts = mean.counts(random);
    if counts {
        let next = mean.with(peak);
        if next != mean {
            word.store(next.word(), Relaxed);
        }
    }
    counts
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    const fn key(route: usize) -> RouteKey {
        RouteKey {
            route,
            method: KnownMethod::Get,
        }
    }

    #[test]
    fn a_route_that_is_not_known_yet_has_the_mean_of_all() {
        let learned = LearnedPeaks::new(4);
        assert_eq!(learned.expected(key(UNMATCHED)), None);
        learned.learn(key(2), 100, 0);
        learned.learn(key(3), 300, 0);
        assert_eq!(learned.expected(key(UNMATCHED)), Some(200));
        assert_eq!(
            learned.expected(key(1)),
            None,
            "a route without closed requests"
        );
        assert_eq!(learned.expected(key(3)), Some(300));
        learned.learn(key(UNMATCHED), 7, 0);
        assert_eq!(learned.expected(key(UNMATCHED)), Some(7));
    }

    #[test]
    fn the_smallest_and_the_priority_are_kept_by_method() {
        let learned = LearnedPeaks::new(4);
        for peak in [50, 20, 90] {
            learned.learn(key(2), peak, 0);
        }
        learned.set_priority(key(2), Priority::Low);
        assert_eq!(learned.entry(key(2)).smallest(), Some(20));
        let priority = |key| learned.get(key).and_then(Entry::priority);
        assert_eq!(priority(key(2)), Some(Priority::Low));
        let post = RouteKey {
            method: KnownMethod::Post,
            ..key(2)
        };
        assert_eq!(learned.entry(post).smallest(), None);
        assert_eq!((priority(post), priority(key(3))), (None, None));
        assert_eq!(learned.expected(post), None);
    }

    #[test]
    fn a_route_warns_once_a_minute() {
        let entry = Entry::new();
        assert!(entry.warns(0) && !entry.warns(0));
        assert!(entry.warns(1) && !entry.warns(1));
    }
}
