use std::{fmt, sync::Arc};

use axum::{Router, extract::Request, routing::any};
use http::request::Parts;

use super::{
    access::Access,
    history::History,
    pages::{PAGES, Page, Pages},
};
use crate::{
    housekeeping::{Chore, start},
    observe::MemoryHandle,
};

/// Debug pages of a layer, as an axum router to be mounted where they belong.
///
/// | path | shows |
/// |---|---|
/// | `/`, `/overview` | routes, plots of the last ten minutes, live requests, outliving tasks, unattributed memory |
/// | `/requests` | open requests, and the largest and slowest of the last minutes, if the layer [lists requests](crate::middleware::MemoryLayerBuilder::list_requests) |
/// | `/tasks` | tasks that outlive their request, detached tasks, and those that exceeded their grace period |
/// | `/snapshot.json` | [`Snapshot`](crate::observe::Snapshot) |
/// | `/trace` | the flight recorder's polls for Perfetto (feature `trace`): those in its rings, or of the next `?seconds=N` |
/// | `/pprof/heap`, `/pprof/allocs` | the allocation profile for `go tool pprof` (feature `profile`): since its start, or of the next `?seconds=N`; `?debug=1` as text |
/// | `/metrics` | [`MemoryHandle::collector`] as OpenMetrics (feature `prometheus`) |
///
/// They show route labels, names and source locations of tasks, and figures: no paths, queries, header values or
/// addresses. `GET` is the only method. Bad parameters are answered with `400`. One request at a time may wait for
/// its seconds, up to 60; the second is answered with `409`. The recorder and the profile are switched on in code.
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
    /// The pages of one layer. They refuse all requests.
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
        let pages = Arc::new(Pages::new(self.handle, self.access, history));
        let serve = |page: Page| {
            let pages = Arc::clone(&pages);
            any(move |request: Request| {
                let pages = Arc::clone(&pages);
                async move { pages.serve(page, request).await }
            })
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
