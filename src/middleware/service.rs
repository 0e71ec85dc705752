use std::task::{Context, Poll};

use http::{Extensions, Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::ResponseBody,
    expose::Expose,
    future::{Exchange, ResponseFuture},
    layer::Config,
};
use crate::{
    cancel::DeadlineSource,
    http::matched_path,
    scope::{Keeper, OTHER, RequestScope},
    sync::{Arc, AtomicUsize, Ordering},
};

/// The service made by [`MemoryLayer`](crate::MemoryLayer).
///
/// It is ready when the inner service is, takes nothing before `call`, and never changes the error
/// type: what it has to refuse it answers. Clones share everything; a clone is as ready as the
/// inner service's clone.
#[derive(Debug, Clone)]
pub struct MemoryService<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// The number of the last route seen. axum makes a service for each route, so this saves the
    /// look-up of nearly every request.
    last_route: AtomicUsize,
}

impl<S> MemoryService<S> {
    pub(super) fn new(inner: S, config: Config) -> Self {
        let last_route = AtomicUsize::new(config.route);
        Self {
            inner,
            shared: Arc::new(Shared { config, last_route }),
        }
    }

    /// The service inside.
    #[must_use]
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

impl Shared {
    /// The number of the route that a router has named, or of the layer's own.
    fn route(&self, extensions: &Extensions) -> usize {
        let Some(path) = matched_path(extensions) else {
            return self.config.route;
        };
        let routes = &self.config.scope.routes;
        // Relaxed: a number stands for its label whoever wrote it.
        let last = self.last_route.load(Ordering::Relaxed);
        if last != OTHER && routes.is(last, path) {
            return last;
        }
        let number = routes.number(path);
        self.last_route.store(number, Ordering::Relaxed);
        number
    }

    /// What an outer layer's scope takes over from this layer.
    fn tighten(&self, scope: &RequestScope, extensions: &Extensions) {
        if let Some(timeout) = self.config.timeout {
            scope.tighten(timeout, DeadlineSource::Layer);
        }
        if let Some(path) = matched_path(extensions) {
            scope.set_route(path);
        } else if self.config.route != crate::scope::UNMATCHED {
            scope.set_route(self.config.scope.routes.label(self.config.route).as_str());
        }
    }
}

/// Asks `expose`; a function has to be shown the request's parts, which are put together again.
fn is_exposed<B>(expose: &Expose, request: Request<B>) -> (bool, Request<B>) {
    match expose {
        Expose::Always => (true, request),
        Expose::Never => (false, request),
        Expose::When(f) => {
            let (parts, body) = request.into_parts();
            (f(&parts), Request::from_parts(parts, body))
        }
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let outer = request.extensions().get::<RequestScope>();
        // A scope that has ended belongs to a request whose extensions were used again.
        if let Some(scope) = outer.filter(|scope| !scope.is_ended()) {
            let scope = scope.clone();
            self.shared.tighten(&scope, request.extensions());
            return ResponseFuture::nested(self.inner.call(request), scope);
        }

        let config = &self.shared.config;
        let route = self.shared.route(request.extensions());
        let (exposed, mut request) = is_exposed(&config.expose, request);
        let exchange = Exchange {
            exposed,
            head: *request.method() == Method::HEAD,
            connect: *request.method() == Method::CONNECT,
        };
        let mut keeper = Keeper::open(&config.scope, route, config.timeout);
        if let Some(scope) = keeper.scope() {
            request.extensions_mut().insert(scope.clone());
        }
        let entered = keeper.enter();
        let future = self.inner.call(request);
        entered.done();
        ResponseFuture::open(future, keeper, exchange)
    }
}
