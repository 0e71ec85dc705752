use std::{
    collections::BTreeSet,
    fmt,
    // Not loom's, which cannot be in a `static`.
    sync::{Mutex as StdMutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    account::aside,
    label_table::LabelTable,
    names::RouteName,
    pool::LearnedSizes,
    sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, lock},
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// The routes of a layer, by number.
///
/// Reading a route by its number takes no lock, and neither does finding the number of a label but for the
/// first time.
pub(crate) struct RouteRegistry {
    routes: Box<[OnceLock<Route>]>,
    table: LabelTable,
    /// How many routes there are. Its lock is held while a route is added.
    count: Mutex<usize>,
    /// Whether there is room for further labels.
    is_full: AtomicBool,
}

/// One route.
pub(crate) struct Route {
    pub(crate) label: RouteLabel,
    /// The label's text as a header value.
    pub(crate) header: Bytes,
    /// Whether the label is printable ASCII without quotes and backslashes.
    pub(crate) is_plain: bool,
    /// How much of their arena the requests of each method use.
    pub(crate) sizes: LearnedSizes,
    /// The label in a profile.
    pub(crate) id: RouteName,
}

impl Route {
    fn new(text: &str) -> Self {
        Self {
            label: RouteLabel(text.into()),
            header: header(text),
            is_plain: text.bytes().all(is_plain),
            sizes: LearnedSizes::new(KnownMethod::COUNT),
            id: RouteName::new(text),
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// The text of a label as a header value.
///
/// A header with a reference count would have all threads write to one cache line. So the texts of the first
/// [`MAX_ROUTES`] labels of the process are kept for ever, and count nothing.
fn header(text: &str) -> Bytes {
    static KEPT: StdMutex<BTreeSet<&str>> = StdMutex::new(BTreeSet::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = kept.get(text) {
        return Bytes::from_static(text.as_bytes());
    }
    if kept.len() >= MAX_ROUTES {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    let text: &'static str = Box::leak(text.into());
    kept.insert(text);
    Bytes::from_static(text.as_bytes())
}

impl RouteRegistry {
    /// Room for `max_routes` routes beside `{unmatched}` and `{other}`.
    pub(crate) fn new(max_routes: usize) -> Self {
        let registry = Self {
            routes: std::iter::repeat_with(OnceLock::new)
                .take(max_routes + 2)
                .collect(),
            table: LabelTable::new(max_routes + 2),
            count: Mutex::new(0),
            is_full: AtomicBool::new(false),
        };
        assert_eq!(registry.find("{unmatched}"), UNMATCHED);
        assert_eq!(registry.find("{other}"), OTHER);
        registry
    }

    /// All numbers are below this.
    pub(crate) const fn capacity(&self) -> usize {
        self.routes.len()
    }

    /// The number of `label`, or that of `{other}` if there are too many labels.
    #[inline]
    pub(crate) fn number(&self, label: &str) -> usize {
        let label = cut(label);
        match self.get(label) {
            Some(number) => number,
            None => self.find_or_other(label),
        }
    }

    #[cold]
    fn find_or_other(&self, label: &str) -> usize {
        // Acquire: a thread that sees it finds all labels, in the search that follows.
        if self.is_full.load(Ordering::Acquire) {
            return self.get(label).unwrap_or(OTHER);
        }
        self.find(label)
    }

    #[inline]
    fn get(&self, label: &str) -> Option<usize> {
        self.table.get(label, |number| self.is(number, label))
    }

    /// The number of `label`, which is added if there is room.
    fn find(&self, label: &str) -> usize {
        let mut count = lock(&self.count);
        if let Some(number) = self.get(label) {
            return number;
        }
        let number = *count;
        let Some(slot) = self.routes.get(number) else {
            // Release: pairs with `find_or_other`.
            self.is_full.store(true, Ordering::Release);
            return OTHER;
        };
        aside(|| slot.get_or_init(|| Route::new(label)));
        self.table.insert(label, number);
        *count += 1;
        number
    }

    /// The route of `number`, which [`number`](Self::number) returned before.
    #[inline]
    pub(crate) fn route(&self, number: usize) -> &Route {
        match self.routes[number].get() {
            Some(route) => route,
            None => self.route_of_another_thread(number),
        }
    }

    #[cold]
    #[inline(never)]
    fn route_of_another_thread(&self, number: usize) -> &Route {
        // The number came from another thread by a relaxed load. The lock orders this read after the
        // thread that found the number.
        drop(lock(&self.count));
        match self.routes[number].get() {
            Some(route) => route,
            None => unreachable!("no label has the number {number}"),
        }
    }

    /// Whether `label` has this `number`. Takes no lock.
    #[inline]
    pub(crate) fn is(&self, number: usize, label: &str) -> bool {
        let route = self.routes[number].get();
        route.is_some_and(|route| route.label.as_str() == cut(label))
    }
}

#[inline]
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

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::sync::LOCKED;

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
        assert_eq!(*lock(&routes.count), 4);
    }

    #[test]
    fn as_many_labels_as_there_may_be_are_found_without_a_lock_from_the_second_time_on() {
        let routes = RouteRegistry::new(MAX_ROUTES);
        let labels: Vec<_> = (0..MAX_ROUTES).map(|n| format!("/items/{n}")).collect();
        let numbers: Vec<_> = labels.iter().map(|label| routes.number(label)).collect();
        // Fills the registry up to its last place, and finds that out.
        assert_eq!(routes.number("/beyond"), OTHER);
        let locked = LOCKED.get();
        for _ in 0..3 {
            for (label, number) in labels.iter().zip(&numbers) {
                assert_eq!(routes.number(label), *number);
                // The same text elsewhere.
                assert_eq!(routes.number(&label.clone()), *number);
            }
            assert_eq!(routes.number("/beyond"), OTHER);
        }
        assert_eq!(LOCKED.get(), locked);
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

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::thread;

    use super::*;

    fn model(labels: [&'static str; 2], expected: fn([usize; 2]) -> bool) {
        loom::model(move || {
            let routes = Arc::new(RouteRegistry::new(2));
            let threads = labels.map(|label| {
                let routes = Arc::clone(&routes);
                thread::spawn(move || {
                    let number = routes.number(label);
                    let found = routes.route(number).label.as_str();
                    assert!(number == OTHER || found == label);
                    number
                })
            });
            let numbers = threads.map(|thread| thread.join().expect("no panic"));
            assert!(expected(numbers), "{numbers:?}");
            let again = labels.map(|label| routes.number(label));
            assert_eq!(again, numbers);
        });
    }

    /// Invariant 2 of `label_table`.
    #[test]
    fn two_threads_with_one_label_find_one_number() {
        model(["/a", "/a"], |[one, other]| one == other && one > OTHER);
    }

    #[test]
    fn two_threads_with_two_labels_find_two_numbers() {
        model(["/a", "/b"], |[one, other]| {
            one != other && one.min(other) > OTHER
        });
    }

    /// A thread that finds no more room finds all labels.
    #[test]
    fn a_label_that_came_before_the_last_place_was_taken_is_found() {
        loom::model(|| {
            let routes = Arc::new(RouteRegistry::new(1));
            let thread = thread::spawn({
                let routes = Arc::clone(&routes);
                move || [routes.number("/a"), routes.number("/b")]
            });
            let number = routes.number("/a");
            assert_eq!(thread.join().expect("no panic"), [number, OTHER]);
            assert!(number > OTHER);
        });
    }
}
