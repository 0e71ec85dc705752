use std::{fmt, panic::Location};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    current::{self, EnteredScope},
    label::LabelSource,
    layer::LayerState,
    recycle,
    report::ArenaUsage,
    shutdown::OpenRequest,
    state::ScopeState,
};
use crate::{
    account::{Enter, Usage, Writer},
    arena::Arena,
    cancel::{CancelReason, Outcome},
    counted::Counted,
    route::{Route, RouteKey, RouteLabel},
    sharded::Shard,
    sync::Arc,
};

/// A handle to the request that is being served.
///
/// [`MemoryLayer`](crate::MemoryLayer) puts one into each request's extensions; with the `axum`
/// feature it is an extractor. Cloning is cheap. Holding one keeps the request's arena alive, but
/// does not keep the request open.
///
/// # Examples
///
/// ```
/// use tower_memory::RequestScope;
///
/// async fn handler(scope: RequestScope) -> String {
///     let text = scope.arena().alloc_fmt(format_args!("{} bytes", 3));
///     tokio::task::yield_now().await;
///     text.to_owned()
/// }
/// # use http::{Request, Response};
/// # use tower::{Layer, ServiceExt, service_fn};
/// # let service = tower_memory::MemoryLayer::new().layer(service_fn(|request: Request<()>| async {
/// #     let scope = request.into_parts().0.extensions.remove::<RequestScope>().expect("in the layer");
/// #     assert_eq!(handler(scope).await, "3 bytes");
/// #     Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
/// # }));
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # let response = runtime.block_on(service.oneshot(Request::new(()))).unwrap();
/// # assert_eq!(response.status(), 200);
/// ```
pub struct RequestScope {
    /// `None` only while the handle is entered (see `current`) or dropped.
    pub(super) state: Option<Counted<ScopeState>>,
    /// Whether this is the handle in the extensions of the request that the layer has passed on.
    pub(super) carried: bool,
}

/// A clone is not the handle that the request carries. So a request that is made of a clone of another
/// one's extensions can be told from that one.
impl Clone for RequestScope {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            carried: self.carried && bug!("copy-taken-for-the-request"),
        }
    }
}

impl RequestScope {
    /// Opens the scope of a new request.
    #[inline]
    pub(super) fn open(
        layer: &Arc<Shard<LayerState>>,
        key: RouteKey,
        own_label: bool,
        start: Instant,
        parent: Option<&Self>,
    ) -> Self {
        let mut state = recycle::take();
        let Some(unique) = state.get_mut() else {
            unreachable!("a recycled scope has no handle");
        };
        let parent = parent.map(Self::state);
        unique.open(Arc::clone(layer), key, own_label, start, parent);
        Self {
            state: Some(state),
            carried: false,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> &Counted<ScopeState> {
        match &self.state {
            Some(state) => state,
            None => unreachable!("an entered handle is borrowed by its guard"),
        }
    }

    /// The handle's own reference, to be moved into the thread's cell.
    pub(super) const fn slot(&mut self) -> &mut Option<Counted<ScopeState>> {
        &mut self.state
    }

    /// Whether this is the only handle, so that no other thread can use the scope. A list only reads it.
    pub(super) fn is_only_handle(&self) -> bool {
        let state = self.state();
        state.is_only() || (state.listed.get().is_some() && state.has_references(2))
    }

    /// Returns the scope that the calling thread works for: in a poll of the request, of its body or of
    /// one of its tasks, or in [`in_scope`](Self::in_scope).
    ///
    /// For code that has no handle. `None` outside of any request, and in tasks that were
    /// not started with [`spawn`](Self::spawn).
    #[must_use]
    #[inline]
    pub fn current() -> Option<Self> {
        current::get().map(|state| Self {
            state: Some(state),
            carried: false,
        })
    }

    /// Returns the request's arena, taken from the pool at the first call.
    ///
    /// It has room for what 95 % of the route's recent requests used, so most requests take no memory
    /// from the system. It goes back to the pool when its last handle is dropped: this scope's, and
    /// those of buffers that are not frozen. A WebSocket rents one for each message from the
    /// [`pool`](Self::pool).
    #[must_use]
    #[track_caller]
    pub fn arena(&self) -> &Arena {
        self.used_at(Location::caller());
        let state = self.state();
        state.arena.get_or_init(|| state.rent_arena())
    }

    /// Returns what the request has taken from its arena so far.
    #[must_use]
    pub fn arena_usage(&self) -> ArenaUsage {
        self.state().arena_usage()
    }

    /// Returns what the request has allocated on the heap so far, the current poll included.
    ///
    /// `None` if that is not known, for example because no
    /// [`TrackingAllocator`](crate::TrackingAllocator) is installed.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.state().account.usage()
    }

    /// Returns the route label that the request is counted under.
    #[must_use]
    pub fn route(&self) -> RouteLabel {
        self.route_entry().label.clone()
    }

    /// The route's entry in the registry.
    pub(crate) fn route_entry(&self) -> &Route {
        self.state().route()
    }

    /// Sets the route label that the request is counted under.
    ///
    /// The number of routes is bounded, so do not use text that the client sent. Labels longer than 256
    /// bytes are truncated. After the scope has closed this does nothing. A route that is matched
    /// afterwards does not replace the label.
    pub fn set_route(&self, label: &str) {
        self.state().set_route(label, LabelSource::Code);
    }

    /// Adds a value to the request's [report](crate::ScopeReport::annotations), such as the id of the
    /// request or of the user.
    ///
    /// A second value of the same key replaces the first. A request has at most 16 keys; further ones are
    /// ignored. Values longer than 256 bytes are truncated. After the scope has closed this has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, sync::mpsc};
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope, ScopeReport};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, reports) = mpsc::channel();
    /// let layer = MemoryLayer::builder().observe(move |report: &ScopeReport| {
    ///     let _ = sender.send(report.clone());
    /// }).build()?;
    /// let service = layer.layer(service_fn(|request: Request<()>| async move {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
    ///     if let Some(id) = request.headers().get("x-request-id") {
    ///         scope.annotate("request_id", String::from_utf8_lossy(id.as_bytes()));
    ///     }
    ///     scope.annotate("rows", 7);
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// drop(service.oneshot(Request::get("/").header("x-request-id", "c0ffee").body(())?).await?);
    ///
    /// let report = reports.recv()?;
    /// assert_eq!(report.annotations, [("request_id", "c0ffee".into()), ("rows", "7".into())]);
    /// assert!(report.to_string().ends_with("request_id=\"c0ffee\", rows=\"7\""));
    /// # Ok(())
    /// # }
    /// ```
    pub fn annotate(&self, key: &'static str, value: impl fmt::Display) {
        self.state().rare().annotations.add(key, value);
    }

    /// Returns a token that is cancelled when the request ends, is [cancelled](Self::cancel), or
    /// exceeds its deadline.
    ///
    /// Each call returns a new token. Cancelling it affects its own clones and children only; [`cancel`](Self::cancel) cancels the request. For code that waits itself,
    /// [`cancelled`](Self::cancelled) on a clone of the handle costs less.
    #[must_use]
    pub fn child_token(&self) -> CancellationToken {
        self.state().child_token()
    }

    /// The current request, and those that have sent it, as far as they are of this layer.
    pub(crate) fn current_in(layer: &Arc<LayerState>) -> Vec<Counted<dyn OpenRequest>> {
        let chain = std::iter::successors(current::get(), |state| state.parent().cloned());
        chain
            .filter(|state| Arc::ptr_eq(state.layer(), layer))
            .map(Counted::into_request)
            .collect()
    }

    /// Returns whether the request is cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Returns why the request is cancelled, if it is.
    #[must_use]
    pub fn reason(&self) -> Option<CancelReason> {
        let state = self.state();
        state.reason().or_else(|| state.reason_of_call())
    }

    /// Returns whether the response is over and, on an upgraded connection, every
    /// [hold](Self::hold) dropped.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.state().lifecycle.is_ended()
    }

    /// Cancels the request with the reason [`Outcome::Cancelled`], unless it has one already.
    ///
    /// Cancelling is cooperative. Tokens are cancelled and the tasks get their grace period, but the
    /// handler keeps running and its response is sent as it is, so the handler chooses what the
    /// client sees. The request is counted as [`Outcome::Cancelled`].
    ///
    /// # Examples
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> StatusCode {
    ///     let shards = [scope.spawn(async { Err("no quorum") }), scope.spawn(async { Ok(()) })];
    ///     for shard in shards {
    ///         if shard.await.is_ok_and(|answer| answer.is_err()) {
    ///             scope.cancel(); // the other shards stop
    ///             return StatusCode::SERVICE_UNAVAILABLE;
    ///         }
    ///     }
    ///     StatusCode::OK
    /// }
    /// ```
    pub fn cancel(&self) {
        self.cancel_for(CancelReason::new(Outcome::Cancelled));
    }

    /// Cancels the request for `reason`, without ending its scope.
    pub(crate) fn cancel_for(&self, reason: CancelReason) {
        self.state().cancel(reason);
    }

    /// Records that the request's body has failed, perhaps since the connection has ended.
    pub(crate) fn body_failed(&self) {
        self.state().cancel.body_failed();
    }

    /// Runs `f` on behalf of the request: its allocations are accounted to the request, and
    /// [`current`](Self::current) returns this scope.
    ///
    /// For closures that run elsewhere, such as those of tokio's own `spawn_blocking`. Inside a poll
    /// of the same request it changes nothing.
    ///
    /// It takes a closure, where [`Account::enter`](crate::Account::enter) returns a guard and has
    /// [`Account::in_scope`](crate::Account::in_scope) for closures: guards dropped in another order than
    /// they were made in would leave the wrong scope as the current one, while accounts only add up.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope};
    ///
    /// let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| async move {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there").clone();
    ///     let thread = std::thread::spawn(move || {
    ///         assert!(RequestScope::current().is_none());
    ///         scope.in_scope(|| RequestScope::current().is_some())
    ///     });
    ///     assert!(thread.join().expect("it ran"));
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// # runtime.block_on(service.oneshot(Request::new(()))).expect("infallible");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let mut handle = self.clone();
        let _entered = handle.enter();
        f()
    }
}

/// For code that may run beside the request's own future.
impl Enter for RequestScope {
    type Guard<'a> = EnteredScope<'a>;

    fn enter(&mut self) -> EnteredScope<'_> {
        current::enter(&mut self.state, Writer::Shared)
    }
}

impl Drop for RequestScope {
    #[inline]
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            recycle::drop_handle(state);
        }
    }
}

impl fmt::Debug for RequestScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScope")
            .field("route", &self.route_entry().label)
            .field("reason", &self.reason())
            .field("remaining", &self.remaining())
            .field("usage", &self.usage())
            .field("arena", &self.arena_usage())
            .finish_non_exhaustive()
    }
}
