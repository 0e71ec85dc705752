use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::{OriginalUri, Request},
    response::{IntoResponse, Response},
    routing::any,
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::HeaderName,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    request::Parts,
};

use super::{
    access::Access,
    document::{POLICY, document},
    history::History,
    page,
    query::{BadQuery, Query},
    requests,
    routes::View,
};
use crate::{
    housekeeping::{Chore, start},
    observe::MemoryHandle,
};

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
#[cfg(feature = "prometheus")]
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The pages' links to one another.
const LINKS: &[(&str, &str)] = &[
    ("", "Overview"),
    ("requests", "Requests"),
    ("tasks", "Tasks"),
    ("snapshot.json", "snapshot.json"),
    #[cfg(feature = "prometheus")]
    ("metrics", "metrics"),
];

/// Debug pages of a layer, as an axum router to be mounted where they belong.
///
/// | path | shows |
/// |---|---|
/// | `/` | routes, plots of the last ten minutes, live requests, outliving tasks, unattributed memory |
/// | `/requests` | open requests, and the largest and slowest of the last minutes, if the layer [lists requests](crate::middleware::MemoryLayerBuilder::list_requests) |
/// | `/tasks` | tasks that outlive their request, detached tasks, and those that exceeded their grace period |
/// | `/snapshot.json` | [`Snapshot`](crate::observe::Snapshot) |
/// | `/metrics` | [`MemoryHandle::collector`] as OpenMetrics (feature `prometheus`) |
///
/// They show route labels, names and source locations of tasks, and figures: no paths, queries, header values or
/// addresses. `GET` is the only method. Bad parameters are answered with `400`.
///
/// # Access
///
/// A request is answered with `403` unless all of the following hold:
///
/// - A rule admits it: [`allow`](Self::allow) or [`allow_loopback`](Self::allow_loopback). Without one, none does.
/// - `Host` is an address, `localhost`, or [allowed](Self::allow_host): a page of another site whose name was
///   rebound to this server sends that name.
/// - `Sec-Fetch-Site` is absent, `none` or `same-origin`. So a link on another site is refused as well: open the
///   pages from the address bar or a bookmark.
///
/// # Where to mount
///
/// Outside of the layer, as in the example; the first page is then `/debug`, without a slash at the end. Inside of it the pages are served and counted like other routes.
/// While a router exists, the memory of the process and the pool is sampled every 5 s.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_memory::{MemoryLayer, debug::DebugPages};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryLayer::new();
/// let pages = DebugPages::new(&memory.handle()).allow_loopback();
/// let app: Router = Router::new()
///     .route("/hello", get(|| async { "hello" }))
///     .layer(memory)
///     .nest("/debug", pages.into_router());
///
/// // Without `into_make_service_with_connect_info::<SocketAddr>()` no peer is known.
/// let request = Request::get("/debug").header("host", "localhost").body(Body::empty())?;
/// let response = app.oneshot(request).await?;
/// assert_eq!(response.status(), 403);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "pages do nothing until they are mounted"]
pub struct DebugPages {
    handle: MemoryHandle,
    access: Access,
}

impl DebugPages {
    /// The pages of one layer. They refuse everybody.
    pub fn new(handle: &MemoryHandle) -> Self {
        Self {
            handle: handle.clone(),
            access: Access::default(),
        }
    }

    /// Admits requests for which `rule` returns `true`, for example those with a certain token, or an extension
    /// that an authenticating middleware has set. With several rules, one that admits is enough.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body};
    /// use http::{Request, header::AUTHORIZATION};
    /// use tower::ServiceExt;
    /// use tower_memory::{MemoryLayer, debug::DebugPages};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let secret_from_the_environment = "Bearer 7f3a".to_owned();
    /// let pages = DebugPages::new(&MemoryLayer::new().handle())
    ///     .allow(move |request| {
    ///         let given = request.headers.get(AUTHORIZATION);
    ///         given.is_some_and(|given| given == secret_from_the_environment.as_str())
    ///     })
    ///     .allow_host("debug.example.com");
    /// let app: Router = pages.into_router();
    ///
    /// let request = Request::get("/snapshot.json").header("host", "debug.example.com");
    /// let request = request.header(AUTHORIZATION, "Bearer 7f3a").body(Body::empty())?;
    /// assert_eq!(app.oneshot(request).await?.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow(mut self, rule: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.access.allow(rule);
        self
    }

    /// Admits requests whose peer has a loopback address.
    ///
    /// The server must tell it: `into_make_service_with_connect_info::<SocketAddr>()`. If it does not, or the
    /// request has a header that proxies add (`forwarded`, `via`, `x-forwarded-for` and the like), the request is
    /// refused. A proxy on this machine that adds none of them is not noticed.
    pub fn allow_loopback(mut self) -> Self {
        self.access.allow_loopback();
        self
    }

    /// Serves the pages under a host name, without its port. Addresses and `localhost` need not be allowed.
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.access.allow_host(name.into());
        self
    }

    /// Returns the router, for [`Router::nest`] or [`Router::merge`].
    pub fn into_router<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let history = Arc::new(History::new(self.handle.clone()));
        start(&history, history.housekeeping().now());
        let pages = Arc::new(Pages {
            handle: self.handle,
            access: self.access,
            history,
        });
        let serve = |page: Page| {
            let pages = Arc::clone(&pages);
            any(move |request: Request| async move { pages.serve(page, request) })
        };
        let router = PAGES.iter().fold(Router::new(), |router, (path, page)| {
            router.route(path, serve(*page))
        });
        router.fallback(serve(Page::Unknown))
    }
}

impl fmt::Debug for DebugPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugPages").finish_non_exhaustive()
    }
}

/// What is served under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Overview,
    Requests,
    Tasks,
    Snapshot,
    #[cfg(feature = "prometheus")]
    Metrics,
    Unknown,
}

const PAGES: &[(&str, Page)] = &[
    ("/", Page::Overview),
    ("/requests", Page::Requests),
    ("/tasks", Page::Tasks),
    ("/snapshot.json", Page::Snapshot),
    #[cfg(feature = "prometheus")]
    ("/metrics", Page::Metrics),
];

struct Pages {
    handle: MemoryHandle,
    access: Access,
    history: Arc<History>,
}

impl Pages {
    fn serve(&self, page: Page, request: Request) -> Response {
        let (parts, _) = request.into_parts();
        let mut response = match self.access.check(&parts) {
            Err(refusal) => refused(StatusCode::FORBIDDEN, &refusal),
            Ok(()) if parts.method != Method::GET => {
                let mut response =
                    refused(StatusCode::METHOD_NOT_ALLOWED, &"GET is the only method");
                let get = HeaderValue::from_static("GET");
                response.headers_mut().insert(ALLOW, get);
                response
            }
            Ok(()) => self
                .answer(page, &parts)
                .unwrap_or_else(|bad| refused(StatusCode::BAD_REQUEST, &bad)),
        };
        protect(response.headers_mut());
        response
    }

    fn answer(&self, page: Page, parts: &Parts) -> Result<Response, BadQuery> {
        let query = |names| Query::parse(parts.uri.query(), names);
        let base = base(parts);
        let html = |title, content| {
            let text = document(title, &base, LINKS, &content);
            ([(CONTENT_TYPE, HTML)], text).into_response()
        };
        Ok(match page {
            Page::Unknown => refused(StatusCode::NOT_FOUND, &"there is no such debug page"),
            Page::Overview => {
                let view = View::of(&query(View::PARAMETERS)?)?;
                html(
                    "Memory by route",
                    page::overview(&self.handle, &self.history, view, &base),
                )
            }
            Page::Requests => {
                query(&[])?;
                html("Requests", requests::page(&self.handle))
            }
            Page::Tasks => {
                query(&[])?;
                html("Tasks", page::all_tasks(&self.handle))
            }
            Page::Snapshot => {
                query(&[])?;
                json(&self.handle.snapshot())
            }
            #[cfg(feature = "prometheus")]
            Page::Metrics => {
                query(&[])?;
                metrics(&self.handle)
            }
        })
    }
}

/// Where relative links to other pages start, for a page whose path may or may not end with a slash.
fn base(parts: &Parts) -> String {
    let path = match parts.extensions.get::<OriginalUri>() {
        Some(OriginalUri(uri)) => uri.path(),
        None => parts.uri.path(),
    };
    // A page but the first is beside its siblings.
    let is_first = parts.uri.path() == "/";
    match path.rsplit('/').next() {
        Some(last) if is_first && !last.is_empty() => format!("./{last}/"),
        _ => "./".to_owned(),
    }
}

fn refused(status: StatusCode, why: &dyn fmt::Display) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], format!("{why}\n")).into_response()
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => ([(CONTENT_TYPE, JSON)], json).into_response(),
        Err(_) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            &"the snapshot cannot be written",
        ),
    }
}

#[cfg(feature = "prometheus")]
fn metrics(handle: &MemoryHandle) -> Response {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    let mut registry = Registry::default();
    registry.register_collector(Box::new(handle.collector()));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, METRICS)], text).into_response(),
        Err(_) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            &"the metrics cannot be written",
        ),
    }
}

/// Headers of all answers.
fn protect(headers: &mut HeaderMap) {
    let fixed = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
