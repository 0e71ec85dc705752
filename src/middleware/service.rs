use std::task::{Context, Poll};

use http::{Extensions, Method, Request, Response, Version};
use http_body::Body;
use tower_service::Service;

use super::{
    body::ResponseBody,
    expose::Expose,
    future::{Exchange, ResponseFuture, Role},
    layer::Config,
};
use crate::{
    cancel::{CancelReason, DeadlineSource, Outcome},
    scope::{Arrival, Keeper, RequestScope, RoutePolicy, UNMATCHED},
    sync::Arc,
    wire::{Protocol, matched_path, shutting_down},
};

/// The service made by [`MemoryLayer`](crate::MemoryLayer).
///
/// It is ready when the inner service is, takes nothing before `call`, and never changes the error
/// type: what it has to refuse it answers. Clones share everything; a clone is as ready as the
/// inner service's clone.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::MemoryLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inner = service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// });
/// let service = MemoryLayer::new().layer(inner);
/// let bare = service.inner().clone().oneshot(Request::new(())).await?;
/// assert!(bare.headers().is_empty());
/// let response = service.oneshot(Request::new(())).await?;
/// assert!(response.headers().contains_key("x-arena-source"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> MemoryService<S> {
    pub(super) const fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// The service inside.
    #[must_use]
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

impl Config {
    /// The number of the route that a router has named, or of the layer's own.
    fn number(&self, extensions: &Extensions) -> usize {
        matched_path(extensions).map_or(self.route, |path| self.scope.routes.number(path))
    }

    /// What the request's headers say of its time, as far as they are trusted.
    fn arrival<B>(&self, request: &Request<B>) -> Option<Arrival> {
        self.trust
            .as_ref()
            .map(|trust| trust.arrival(request.headers(), &self.scope.gauges.unparsable_deadlines))
    }

    /// What an outer layer's scope takes over from this layer. Returns who set a deadline that had
    /// passed before the request arrived.
    fn tighten<B>(&self, scope: &RequestScope, request: &Request<B>) -> Option<DeadlineSource> {
        let expired = scope.tighten(self.arrival(request), &self.limits);
        if let Some(path) = matched_path(request.extensions()) {
            scope.set_route(path);
        } else if self.route != UNMATCHED {
            scope.set_route(self.scope.routes.label(self.route).as_str());
        }
        expired
    }
}

fn exchange<B>(request: &Request<B>, exposed: bool) -> Exchange {
    let method = request.method();
    Exchange {
        exposed,
        head: *method == Method::HEAD,
        connect: *method == Method::CONNECT,
        http1: request.version() < Version::HTTP_2,
        protocol: Protocol::of(method, request.headers()),
    }
}

impl<S, B, R> Service<Request<B>> for MemoryService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let config = &self.config;
        let outer = request.extensions().get::<RequestScope>();
        // A scope that has ended belongs to a request whose extensions were used again.
        if let Some(scope) = outer.filter(|scope| !scope.is_ended()) {
            let scope = scope.clone();
            let exchange = exchange(&request, false);
            let answers = config.responses.clone();
            let expired = config.tighten(&scope, &request);
            let inner = match expired {
                None => Some(self.inner.call(request)),
                Some(source) => {
                    scope.cancel_for(CancelReason::deadline(source));
                    None
                }
            };
            return ResponseFuture::new(inner, expired, Role::Nested { scope }, exchange, answers);
        }

        let arrival = config.arrival(&request);
        let outer = request.extensions().get::<RoutePolicy>().copied();
        let route = config.number(request.extensions());
        let exposed = match &config.expose {
            Expose::Always => true,
            Expose::DebugBuilds | Expose::Never => false,
            // A function has to be shown the request's parts, which are put together again.
            Expose::When(f) => {
                let (parts, body) = request.into_parts();
                let exposed = f(&parts);
                request = Request::from_parts(parts, body);
                exposed
            }
        };
        let exchange = exchange(&request, exposed);
        let answers = config.responses.clone();
        let mut keeper = Keeper::open(&config.scope, route);
        // After the request was counted: a shutdown waits for it, or it is refused.
        if config.scope.gauges.shutdown.has_begun() {
            let answer = shutting_down(exchange.protocol, exchange.http1);
            return ResponseFuture::refused(
                answer,
                CancelReason::new(Outcome::Shutdown),
                keeper,
                exchange,
            );
        }
        let mut expired = None;
        if let Some(scope) = keeper.scope() {
            expired = scope.begin(arrival, outer.as_ref(), &config.limits);
            if let Some(source) = expired {
                scope.cancel_for(CancelReason::deadline(source));
            }
            request.extensions_mut().insert(scope.clone());
        }
        let entered = keeper.enter();
        let inner = if expired.is_none() {
            Some(self.inner.call(request))
        } else {
            drop(request);
            None
        };
        entered.done();
        ResponseFuture::new(inner, expired, Role::Opener { keeper }, exchange, answers)
    }
}
