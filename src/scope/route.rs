use std::{collections::HashMap, fmt};

use bytes::Bytes;

use crate::{
    pool::LearnedSizes,
    sync::{Arc, AtomicUsize, Mutex, OnceLock, Ordering, lock},
};

/// Index of the label of requests that matched no route, or whose route nobody named.
pub(crate) const UNMATCHED: usize = 0;

/// Index of the label of all routes beyond the bound.
pub(crate) const OTHER: usize = 1;

/// How many different routes are told apart unless configured otherwise.
pub(crate) const MAX_ROUTES: usize = 512;

/// Longer labels are cut at this length; no route of a real router comes near it.
pub(crate) const MAX_LABEL_BYTES: usize = 256;

// `MemoryLayerBuilder::max_routes`, `MemoryLayerBuilder::route` and `RequestScope::set_route` say so.
const _: () = assert!(MAX_ROUTES == 512 && MAX_LABEL_BYTES == 256);

/// The name under which a request's figures are kept.
///
/// With axum it is the matched path (`/items/{n}`), so there are as many labels as routes and not
/// as many as paths. Requests that matched none share `{unmatched}`; routes beyond the bound (512
/// unless set) share `{other}`.
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
pub struct RouteLabel {
    label: Arc<Label>,
}

#[derive(PartialEq, Eq, Hash)]
struct Label {
    text: Box<str>,
    /// The same text, ready to be a header value.
    bytes: Bytes,
}

impl RouteLabel {
    fn new(text: &str) -> Self {
        Self {
            label: Arc::new(Label {
                text: text.into(),
                bytes: Bytes::copy_from_slice(text.as_bytes()),
            }),
        }
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.label.text
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.label.bytes
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

/// Places for numbers found lately.
const RECENT: usize = 128;

/// All labels there are, by number. Reading one by its number takes no lock and no reference count;
/// finding a label's number takes a lock once, and seldom afterwards.
pub(crate) struct RouteRegistry {
    labels: Box<[OnceLock<RouteLabel>]>,
    numbers: Mutex<HashMap<Box<str>, usize>>,
    /// Numbers by the address of the text they were found for. A router keeps the text of a route in
    /// one place, so this finds the number of nearly every request. An entry is only a guess.
    recent: Box<[AtomicUsize]>,
    unmatched: RouteLabel,
    /// What the requests of each route use of their arena.
    pub(crate) sizes: LearnedSizes,
}

impl RouteRegistry {
    /// Tells `max_routes` routes apart, beside `{unmatched}` and `{other}`.
    pub(crate) fn new(max_routes: usize) -> Self {
        let unmatched = RouteLabel::new("{unmatched}");
        let labels: Box<[_]> = [unmatched.clone(), RouteLabel::new("{other}")]
            .into_iter()
            .map(OnceLock::from)
            .chain(std::iter::repeat_with(OnceLock::new).take(max_routes))
            .collect();
        let numbers = [UNMATCHED, OTHER]
            .into_iter()
            .filter_map(|number| Some((labels.get(number)?.get()?.as_str().into(), number)))
            .collect();
        Self {
            sizes: LearnedSizes::new(labels.len()),
            labels,
            numbers: Mutex::new(numbers),
            recent: std::iter::repeat_with(|| AtomicUsize::new(OTHER))
                .take(RECENT)
                .collect(),
            unmatched,
        }
    }

    /// How many numbers there can be.
    pub(crate) fn capacity(&self) -> usize {
        self.labels.len()
    }

    /// The number of `label`: its own, or that of `{other}` if there are too many.
    pub(crate) fn number(&self, label: &str) -> usize {
        let address = label.as_ptr().addr() ^ label.len();
        // The upper bits of a product depend on all bits of the address.
        let spread = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let Some(recent) = self.recent.get(spread as usize % RECENT) else {
            return self.find(label);
        };
        // Relaxed: whatever number is there, its label is compared.
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
        let Some(place) = self.labels.get(number) else {
            return OTHER;
        };
        let label = place.get_or_init(|| RouteLabel::new(label));
        numbers.insert(label.as_str().into(), number);
        number
    }

    /// The label of `number`.
    pub(crate) fn label(&self, number: usize) -> &RouteLabel {
        self.labels
            .get(number)
            .and_then(OnceLock::get)
            .unwrap_or(&self.unmatched)
    }

    /// Whether `label` has this `number`, without a lock.
    pub(crate) fn is(&self, number: usize, label: &str) -> bool {
        self.label(number).as_str() == cut(label)
    }
}

fn cut(label: &str) -> &str {
    if label.len() <= MAX_LABEL_BYTES {
        return label;
    }
    let end = (0..=MAX_LABEL_BYTES.min(label.len()))
        .rev()
        .find(|&end| label.is_char_boundary(end))
        .unwrap_or(0);
    label.get(..end).unwrap_or("")
}

impl fmt::Debug for RouteRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.labels.iter().filter_map(OnceLock::get))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_keeps_its_number() {
        let routes = RouteRegistry::new(2);
        let first = routes.number("/a");
        assert_eq!(routes.number("/b"), first + 1);
        assert_eq!(routes.number("/a"), first);
        assert_eq!(routes.label(first).as_str(), "/a");
        assert!(routes.is(first, "/a") && !routes.is(first, "/b"));
    }

    #[test]
    fn labels_beyond_the_bound_share_one() {
        let routes = RouteRegistry::new(2);
        for n in 0..100_000 {
            routes.number(&format!("/{n}"));
        }
        assert_eq!(routes.number("/99999"), OTHER);
        assert_eq!(routes.label(OTHER).as_str(), "{other}");
        assert_eq!(routes.label(routes.number("/1")).as_str(), "/1");
        assert_eq!(lock(&routes.numbers).len(), 4);
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let routes = RouteRegistry::new(2);
        let long = "é".repeat(1000);
        let number = routes.number(&long);
        assert_eq!(routes.label(number).as_str().len(), MAX_LABEL_BYTES);
        assert!(routes.is(number, &long));
    }
}
