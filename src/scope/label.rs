use crate::{
    route::{RouteRegistry, UNMATCHED},
    sync::{AtomicUsize, Ordering},
};

/// Set when the scope has closed: the route is final.
const FIXED: usize = 1 << (usize::BITS - 1);

/// Set when the label is the request's own: a router has matched the request, or code has set it.
const OWN: usize = FIXED >> 1;

/// The number of a request's route, and what may still change it.
///
/// # Invariants
///
/// 1. All changes are read-modify-writes of one word. So of two concurrent changes each reports its own
///    step, and none comes after the close.
#[derive(Debug)]
pub(super) struct RouteWord(AtomicUsize);

/// Where a label comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelSource {
    /// Code that knows the request. It replaces any label.
    Code,
    /// The first router that matches the request. Later ones are those of requests that the handler has
    /// sent by moving its own.
    Router,
    /// The settings of a layer, until there is another label.
    Layer,
}

/// A change from one route to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) from: usize,
    pub(super) to: usize,
}

impl RouteWord {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(UNMATCHED))
    }

    /// Starts again with the route of a new request.
    #[inline]
    pub(super) fn begin(&mut self, number: usize, own: bool) {
        // Relaxed: `&mut` excludes other threads.
        self.0
            .store(number | if own { OWN } else { 0 }, Ordering::Relaxed);
    }

    fn load(&self) -> usize {
        // Relaxed: the registry orders what the number refers to.
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn number(&self) -> usize {
        number(self.load())
    }

    /// Whether the label is the request's own.
    #[inline]
    pub(super) fn is_own(&self) -> bool {
        self.load() & OWN != 0
    }

    /// Sets the route to that of `label`, unless it must stay. Returns the change of the number, if any.
    pub(super) fn set(
        &self,
        routes: &RouteRegistry,
        label: &str,
        source: LabelSource,
    ) -> Option<Moved> {
        let (kept, own) = match source {
            LabelSource::Code => (FIXED, OWN),
            LabelSource::Router => (FIXED | OWN, OWN),
            LabelSource::Layer => (FIXED | OWN, 0),
        };
        let mut now = self.load();
        if now & kept != 0 {
            return None;
        }
        let to = if routes.is(number(now), label) {
            number(now)
        } else {
            routes.number(label)
        };
        while now & kept == 0 && now != to | own {
            // Relaxed: as `load`, and the caller's counts are figures.
            match self
                .0
                .compare_exchange(now, to | own, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    let from = number(now);
                    return (from != to).then_some(Moved { from, to });
                }
                Err(changed) => now = changed,
            }
        }
        None
    }

    /// Makes the route final, and returns its number.
    #[inline]
    pub(super) fn fix(&self) -> usize {
        // Relaxed: all threads agree on the order of one word's changes, so none comes after this one.
        number(self.0.fetch_or(FIXED, Ordering::Relaxed))
    }
}

const fn number(word: usize) -> usize {
    word & !(FIXED | OWN)
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use LabelSource::{Code, Layer, Router};

    use super::*;

    #[test]
    fn a_match_and_code_replace_what_a_layer_has_set_and_only_code_replaces_theirs() {
        let routes = RouteRegistry::new(8);
        let first = [(Code, "code"), (Router, "/match"), (Layer, "layer")];
        for (before, label) in first {
            for (after, other) in [(Code, "c"), (Router, "/r"), (Layer, "l")] {
                let word = RouteWord::new();
                let (label, other) = (routes.number(label), routes.number(other));
                let set =
                    |number, source| word.set(&routes, routes.route(number).label.as_str(), source);
                let moved = |from, to| Some(Moved { from, to });
                assert_eq!(set(label, before), moved(UNMATCHED, label));
                assert_eq!(word.is_own(), before != Layer);
                let replaces = after == Code || before == Layer;
                let expected = if replaces { moved(label, other) } else { None };
                assert_eq!(set(other, after), expected, "{before:?} {after:?}");
                assert_eq!(word.number(), if replaces { other } else { label });
                assert_eq!(word.is_own(), before != Layer || after != Layer);
            }
        }
    }

    #[test]
    fn the_same_label_again_moves_nothing_but_is_kept_as_the_requests_own() {
        let routes = RouteRegistry::new(8);
        let mut word = RouteWord::new();
        word.begin(routes.number("/a"), false);
        assert_eq!(word.set(&routes, "/a", Router), None);
        assert!(word.is_own());
        assert_eq!(word.set(&routes, "/b", Router), None);
        assert_eq!(word.fix(), routes.number("/a"));
        assert_eq!(word.set(&routes, "/b", Code), None);
        assert_eq!(word.number(), routes.number("/a"));
        word.begin(UNMATCHED, false);
        assert!(!word.is_own());
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Invariant 1: in the steps that are reported, each begins where another one has ended.
    #[test]
    fn concurrent_changes_and_the_close_report_one_path() {
        loom::model(|| {
            let routes = std::sync::Arc::new(RouteRegistry::new(2));
            // Makes the labels.
            assert_eq!((routes.number("/a"), routes.number("/b")), (2, 3));
            let word = Arc::new(RouteWord::new());
            let change = |label, source| {
                let (word, routes) = (Arc::clone(&word), std::sync::Arc::clone(&routes));
                thread::spawn(move || word.set(&routes, label, source))
            };
            let changes = [
                change("/a", LabelSource::Code),
                change("/b", LabelSource::Router),
            ];
            let last = word.fix();
            let [code, router] = changes.map(|change| change.join().expect("no panic"));
            let mut counts = [0_i32; 4];
            counts[UNMATCHED] += 1;
            for moved in [code, router].into_iter().flatten() {
                counts[moved.from] -= 1;
                counts[moved.to] += 1;
            }
            let mut expected = [0; 4];
            expected[last] = 1;
            assert_eq!(counts, expected, "{code:?} {router:?}");
            // A match comes before code's label, or not at all.
            assert!(router.is_none_or(|moved| moved.from == UNMATCHED));
        });
    }
}
