use std::fmt;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    config::ScopeConfig,
    current,
    hold::ScopeHold,
    inner::{Inner, ROUTE_FIXED},
    report::ArenaUsage,
    route::RouteLabel,
    spare,
};
use crate::{
    account::{Usage, Writer},
    arena::Arena,
    cancel::{CancelReason, Outcome},
    sync::{Arc, Ordering},
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
///     let text = scope.arena().format(format_args!("{} bytes", 3));
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
#[derive(Clone)]
pub struct RequestScope {
    /// `None` only in the middle of `drop`.
    inner: Option<Arc<Inner>>,
}

impl RequestScope {
    /// Opens the scope of a new request.
    pub(super) fn open(config: &Arc<ScopeConfig>, route: usize, start: Instant) -> Self {
        let mut inner = spare::take();
        match Arc::get_mut(&mut inner) {
            Some(inner) => inner.open(Arc::clone(config), route, start),
            // Not reached: a spare, like a new one, has no other handle.
            None => {
                let mut new = Inner::new();
                new.open(Arc::clone(config), route, start);
                inner = Arc::new(new);
            }
        }
        Self { inner: Some(inner) }
    }

    #[inline]
    pub(super) fn inner(&self) -> &Inner {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("only `drop` empties the handle"),
        }
    }

    /// Whether there is no other handle to this scope, and so nobody who could make one.
    pub(super) fn is_only_handle(&self) -> bool {
        self.inner
            .as_ref()
            .is_none_or(|inner| Arc::strong_count(inner) == 1)
    }

    /// The scope in whose poll (or [`in_scope`](Self::in_scope)) the calling thread is.
    ///
    /// For code that has no request at hand. `None` outside of any request, and in tasks that were
    /// not started with [`spawn`](Self::spawn).
    #[must_use]
    pub fn current() -> Option<Self> {
        current::get()
    }

    /// The request's arena, taken from the pool the first time.
    ///
    /// It has room for what 95 % of the route's recent requests used, so that most requests take no
    /// memory from the system. It goes back when its last handle is gone: this scope's, and those of
    /// buffers and bytes frozen from it.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        let inner = self.inner();
        inner.arena.get_or_init(|| {
            let Some(config) = &inner.config else {
                return Arena::new();
            };
            // Relaxed: the number of a route whose size is a guess anyway.
            let route = inner.route.load(Ordering::Relaxed) & !ROUTE_FIXED;
            match config.routes.sizes.bytes(route) {
                Some(bytes) => config.pool.rent_with_capacity(bytes),
                None => config.pool.rent(),
            }
        })
    }

    /// What the request has taken from its arena so far.
    #[must_use]
    pub fn arena_usage(&self) -> ArenaUsage {
        self.inner().arena_usage()
    }

    /// What the request has allocated on the heap so far, the current poll included.
    ///
    /// `None` if that is not known, first of all if no
    /// [`TrackingAllocator`](crate::TrackingAllocator) is installed.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.inner().account.usage()
    }

    /// Returns a token that is cancelled when the request ends, is [cancelled](Self::cancel), or
    /// exceeds its deadline.
    ///
    /// Each call returns a new child of the request's token. Cancelling it affects its own clones
    /// and children only; [`cancel`](Self::cancel) cancels the request.
    #[must_use]
    pub fn child_token(&self) -> CancellationToken {
        self.own_token().child_token()
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

    /// The request's own token, made the first time.
    pub(crate) fn own_token(&self) -> &CancellationToken {
        let inner = self.inner();
        let token = inner.signal.token(|token| {
            if let Some(config) = &inner.config {
                inner.token.set(config.gauges.tokens.insert(token.clone()));
            }
        });
        // Cancels a token that was made too late to be found by a shutdown.
        let _ = inner.reason();
        token
    }

    /// Waits until the request ends or its deadline passes, and tells why.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping it has no effect.
    pub async fn cancelled(&self) -> CancelReason {
        if let Some(reason) = self.reason() {
            return reason;
        }
        self.own_token().cancelled().await;
        // The token is cancelled after the reason is set, or a shutdown began, and by nobody else.
        self.reason()
            .unwrap_or(CancelReason::new(Outcome::Completed))
    }

    /// Whether the request has ended, or its deadline has passed.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Why the request ended, if it has.
    #[must_use]
    pub fn reason(&self) -> Option<CancelReason> {
        self.inner().reason()
    }

    /// The route the request's figures are kept under.
    #[must_use]
    pub fn route(&self) -> RouteLabel {
        self.with_route(RouteLabel::clone)
            .unwrap_or_else(|| super::route::RouteRegistry::new(0).label(0).clone())
    }

    pub(crate) fn with_route<R>(&self, f: impl FnOnce(&RouteLabel) -> R) -> Option<R> {
        let inner = self.inner();
        let config = inner.config.as_ref()?;
        // Relaxed, as in `set_route`: the number of a label, which the registry publishes itself.
        let number = inner.route.load(Ordering::Relaxed) & !ROUTE_FIXED;
        Some(f(config.routes.label(number)))
    }

    /// Sets the route the request's figures are kept under.
    ///
    /// The number of routes is bounded; do not use what the client sent. Longer labels than 256
    /// bytes are cut. After the scope has closed this does nothing.
    pub fn set_route(&self, label: &str) {
        let inner = self.inner();
        let Some(config) = &inner.config else {
            return;
        };
        let mut now = inner.route.load(Ordering::Relaxed);
        if now & ROUTE_FIXED != 0 || config.routes.is(now, label) {
            return;
        }
        let number = config.routes.number(label);
        // Compare and swap, so that of two at once each tells the sink of its own step, and none
        // comes after the close.
        while now & ROUTE_FIXED == 0 && now != number {
            match inner
                .route
                .compare_exchange(now, number, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    config.sink.relabelled(now, number);
                    return;
                }
                Err(changed) => now = changed,
            }
        }
    }

    /// Runs `f` on behalf of the request: what it allocates is accounted, and
    /// [`current`](Self::current) finds this scope.
    ///
    /// For closures that run elsewhere, such as those of tokio's own `spawn_blocking`. Inside a poll
    /// of the same request it changes nothing.
    ///
    /// It takes a closure, where [`Account::enter`](crate::Account::enter) returns a guard and has
    /// [`Account::in_scope`](crate::Account::in_scope) for closures: guards dropped in another order than they were made
    /// in would leave the wrong scope as the current one, while accounts only add up.
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
        let mut slot = Some(self.clone());
        let _entered = current::enter(&mut slot, Writer::Shared);
        f()
    }

    /// Keeps the scope of an upgraded connection open until the guard is dropped.
    ///
    /// When a connection is upgraded (WebSocket), the HTTP response is over at once; move the
    /// guard into the task that serves the connection. If the response turns out not to be an
    /// upgrade the guard has no effect.
    pub fn hold(&self) -> ScopeHold {
        ScopeHold::new(self)
    }

    /// Whether the response is over (its tasks may still have their grace).
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.inner().lifecycle.is_ended()
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else {
            return;
        };
        if Arc::strong_count(&inner) != 1 {
            return;
        }
        // Nobody else can make a handle any more. If two handles saw each other here, neither
        // recycles, and the memory is freed instead.
        if let Some(unique) = Arc::get_mut(&mut inner) {
            unique.release();
            spare::put(inner);
        }
    }
}

impl fmt::Debug for RequestScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScope")
            .field("route", &self.with_route(RouteLabel::clone))
            .field("reason", &self.reason())
            .field("remaining", &self.remaining())
            .field("usage", &self.usage())
            .field("arena", &self.arena_usage())
            .finish_non_exhaustive()
    }
}
