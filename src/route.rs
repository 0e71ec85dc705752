use std::{collections::HashMap, fmt};

use bytes::Bytes;

use crate::{
    account::aside,
    pool::LearnedSizes,
    sync::{Arc, AtomicUsize, Mutex, OnceLock, Ordering, lock},
};

/// The number of requests that matched no route.
pub(crate) const UNMATCHED: usize = 0;

/// The number of all routes beyond the bound.
pub(crate) const OTHER: usize = 1;

/// The number of routes that are counted separately by default.
pub(crate) const MAX_ROUTES: usize = 512;

/// Longer labels are truncated.
pub(crate) const MAX_LABEL_BYTES: usize = 256;

// `MemoryLayerBuilder::max_routes`, `MemoryLayerBuilder::route` and `RequestScope::set_route` say so.
const _: () = assert!(MAX_ROUTES == 512 && MAX_LABEL_BYTES == 256);

/// A request method, as far as it is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownMethod {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    /// Any method but those of RFC 9110 and RFC 5789.
    Other,
    Patch,
    Post,
    Put,
    Trace,
}

impl KnownMethod {
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// All methods, in the order of their [`index`](Self::index).
    pub(crate) const ALL: [Self; 10] = [
        Self::Connect,
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Other,
        Self::Patch,
        Self::Post,
        Self::Put,
        Self::Trace,
    ];

    pub(crate) const fn index(self) -> usize {
        // The variants are declared in the order of `ALL`; a test compares the two.
        self as usize
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Other => "other",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }
}

/// What a request's figures are kept by: its route's number and its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteKey {
    pub(crate) route: usize,
    pub(crate) method: KnownMethod,
}

/// The label under which a request's figures are kept.
///
/// With axum it is the matched path, for example `/items/{n}`. Requests that matched no route share
/// `{unmatched}`, routes beyond the bound (512 by default) share `{other}`. A clone shares the text.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, sync::mpsc};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, ScopeReport};
///
/// let (sender, labels) = mpsc::channel();
/// let layer = MemoryLayer::builder().route("hello").observe(move |report: &ScopeReport| {
///     let _ = sender.send(report.route.clone());
/// }).build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// drop(runtime.block_on(service.oneshot(Request::new(()))));
/// assert_eq!(labels.recv().expect("the scope has closed").as_str(), "hello");
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RouteLabel(Arc<str>);

impl RouteLabel {
    /// Returns the label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The label's own text, shared and not copied.
impl From<RouteLabel> for Arc<str> {
    fn from(label: RouteLabel) -> Self {
        label.0
    }
}

impl PartialEq<str> for RouteLabel {
    fn eq(&self, text: &str) -> bool {
        self.as_str() == text
    }
}

impl PartialEq<&str> for RouteLabel {
    fn eq(&self, text: &&str) -> bool {
        self.as_str() == *text
    }
}

impl AsRef<str> for RouteLabel {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for RouteLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RouteLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Slots of the cache of recent lookups.
const RECENT: usize = 128;

/// The routes of a layer, by number.
///
/// Reading a route by its number takes no lock. Finding the number of a label takes one the first
/// time, and seldom afterwards.
pub(crate) struct RouteRegistry {
    routes: Box<[OnceLock<Route>]>,
    numbers: Mutex<HashMap<Arc<str>, usize>>,
    /// Numbers by the address of the text they were found for. A router keeps the text of a route in
    /// one place, so this finds the number of nearly every request. An entry is only a guess.
    recent: Box<[AtomicUsize]>,
}

/// One route.
pub(crate) struct Route {
    pub(crate) label: RouteLabel,
    /// The label's text as a header value.
    pub(crate) header: Bytes,
    /// How much of their arena the requests of each method use.
    pub(crate) sizes: LearnedSizes,
}

impl Route {
    fn new(text: &str) -> Self {
        Self {
            label: RouteLabel(text.into()),
            header: Bytes::copy_from_slice(text.as_bytes()),
            sizes: LearnedSizes::new(KnownMethod::COUNT),
        }
    }
}

impl RouteRegistry {
    /// Room for `max_routes` routes beside `{unmatched}` and `{other}`.
    pub(crate) fn new(max_routes: usize) -> Self {
        let registry = Self {
            routes: std::iter::repeat_with(OnceLock::new)
                .take(max_routes + 2)
                .collect(),
            numbers: Mutex::default(),
            recent: std::iter::repeat_with(|| AtomicUsize::new(OTHER))
                .take(RECENT)
                .collect(),
        };
        assert_eq!(registry.find("{unmatched}"), UNMATCHED);
        assert_eq!(registry.find("{other}"), OTHER);
        registry
    }

    /// The number of `label`, or that of `{other}` if there are too many labels.
    pub(crate) fn number(&self, label: &str) -> usize {
        let address = label.as_ptr().addr() ^ label.len();
        // The upper bits of a product depend on all bits of the address.
        let spread = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let recent = &self.recent[spread as usize % RECENT];
        // Relaxed: the label of the number is compared.
        let guess = recent.load(Ordering::Relaxed);
        if guess != OTHER && self.is(guess, label) {
            return guess;
        }
        let number = self.find(label);
        recent.store(number, Ordering::Relaxed);
        number
    }

    fn find(&self, label: &str) -> usize {
        let label = cut(label);
        let mut numbers = lock(&self.numbers);
        if let Some(&number) = numbers.get(label) {
            return number;
        }
        let number = numbers.len();
        let Some(slot) = self.routes.get(number) else {
            return OTHER;
        };
        aside(|| {
            let route = slot.get_or_init(|| Route::new(label));
            numbers.insert(Arc::clone(&route.label.0), number);
        });
        number
    }

    /// The route of `number`, which [`number`](Self::number) returned before.
    pub(crate) fn route(&self, number: usize) -> &Route {
        let slot = &self.routes[number];
        if let Some(route) = slot.get() {
            return route;
        }
        // The number came from another thread by a relaxed load. The lock orders this read after the
        // thread that found the number.
        drop(lock(&self.numbers));
        match slot.get() {
            Some(route) => route,
            None => unreachable!("no label has the number {number}"),
        }
    }

    /// Whether `label` has this `number`. Takes no lock.
    pub(crate) fn is(&self, number: usize, label: &str) -> bool {
        let route = self.routes[number].get();
        route.is_some_and(|route| route.label.as_str() == cut(label))
    }
}

fn cut(label: &str) -> &str {
    if label.len() <= MAX_LABEL_BYTES {
        return label;
    }
    let mut end = MAX_LABEL_BYTES;
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    &label[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_the_position_in_all() {
        for (at, method) in KnownMethod::ALL.iter().enumerate() {
            assert_eq!(method.index(), at);
        }
    }

    #[test]
    fn a_label_keeps_its_number() {
        let routes = RouteRegistry::new(2);
        let first = routes.number("/a");
        assert_eq!(routes.number("/b"), first + 1);
        assert_eq!(routes.number("/a"), first);
        assert_eq!(routes.route(first).label.as_str(), "/a");
        assert!(routes.is(first, "/a") && !routes.is(first, "/b"));
    }

    #[test]
    fn labels_beyond_the_bound_share_one() {
        let routes = RouteRegistry::new(2);
        for n in 0..100_000 {
            routes.number(&format!("/{n}"));
        }
        assert_eq!(routes.number("/99999"), OTHER);
        assert_eq!(routes.route(OTHER).label.as_str(), "{other}");
        assert_eq!(routes.route(routes.number("/1")).label.as_str(), "/1");
        assert_eq!(lock(&routes.numbers).len(), 4);
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let routes = RouteRegistry::new(2);
        let long = "é".repeat(1000);
        let number = routes.number(&long);
        assert_eq!(routes.route(number).label.as_str().len(), MAX_LABEL_BYTES);
        assert!(routes.is(number, &long));
    }
}
