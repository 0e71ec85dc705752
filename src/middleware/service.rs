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
    scope::{Keeper, RequestScope, UNMATCHED},
    sync::Arc,
};

/// The service made by [`MemoryLayer`](crate::MemoryLayer).
///
/// It is ready when the inner service is, takes nothing before `call`, and never changes the error
/// type: what it has to refuse it answers. Clones share everything; a clone is as ready as the
/// inner service's clone.
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

    /// What an outer layer's scope takes over from this layer.
    fn tighten(&self, scope: &RequestScope, extensions: &Extensions) {
        if let Some(timeout) = self.timeout {
            scope.tighten(timeout, DeadlineSource::Layer);
        }
        if let Some(path) = matched_path(extensions) {
            scope.set_route(path);
        } else if self.route != UNMATCHED {
            scope.set_route(self.scope.routes.label(self.route).as_str());
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
            self.config.tighten(&scope, request.extensions());
            return ResponseFuture::nested(self.inner.call(request), scope);
        }

        let config = &self.config;
        let route = config.number(request.extensions());
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
