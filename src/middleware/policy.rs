use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::ResponseBody, call::Call, dispatch::Dispatch, future::ResponseFuture, place::Place,
    request_info::RequestInfo,
};
use crate::{
    account::Enter,
    deadline::TimeRules,
    route::{RouteKey, UNMATCHED},
    scope::{OpenScope, RoutePolicy},
    wire::known_method,
};

/// The service made by a [`RoutePolicy`] as a layer.
///
/// The limits are those of the call: they end with the inner service's response and its body. A call
/// that exceeds its timeout is dropped and answered with `504`. If that becomes the request's response,
/// the request has exceeded its deadline, and the nearest layer replaces the response by its own. If the
/// time had passed in a queue, the inner service is not called.
///
/// A request that a handler made of its own extensions gets a scope of its own here. Outside any
/// `MemoryLayer` the policy is left in the request's extensions for an inner one.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::RoutePolicy;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let second = Duration::from_secs(1);
/// let service = RoutePolicy::new().timeout(second).layer(service_fn(move |request: Request<()>| {
///     // No `MemoryLayer` has opened a scope.
///     let left = request.extensions().get::<RoutePolicy>();
///     assert_eq!(left, Some(&RoutePolicy::new().timeout(second)));
///     async { Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new())) }
/// }));
/// service.oneshot(Request::new(())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PolicyService<S> {
    inner: S,
    policy: RoutePolicy,
}

impl<S> Layer<S> for RoutePolicy {
    type Service = PolicyService<S>;

    fn layer(&self, inner: S) -> PolicyService<S> {
        PolicyService {
            inner,
            policy: *self,
        }
    }
}

impl<S> PolicyService<S> {
    /// Calls the inner service outside any layer, and leaves the policy for one further in.
    fn call_outside<B>(&mut self, mut request: Request<B>) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>>,
    {
        let outer = request.extensions().get::<RoutePolicy>().copied();
        let policy = self.policy.inside(outer.unwrap_or_default());
        request.extensions_mut().insert(policy);
        // A layer in between answers it, for CORS.
        let preflight = request.method() == Method::OPTIONS;
        ResponseFuture::passing(self.inner.call(request), preflight)
    }
}

impl<S, B, R> Service<Request<B>> for PolicyService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body + Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (mut place, expired) = match Dispatch::at_policy(request.extensions()) {
            Dispatch::Inside(scope) => {
                let (call, expired) = Call::begin(scope, &self.policy, false);
                (Place::Nested(call), expired)
            }
            Dispatch::New(mut origin) => {
                let Some(parent) = origin.parent.take() else {
                    return self.call_outside(request);
                };
                // No layer has seen this request, and none may follow.
                let routes = parent.routes();
                let (route, own) = origin.route(request.extensions(), UNMATCHED, routes);
                let method = known_method(request.method());
                let mut open = OpenScope::by_policy(&parent, RouteKey { route, method }, own);
                open.copied_from(origin.into_path());
                let scope = open.scope();
                scope.begin_request_limit(self.policy.request_limit);
                let (outer, none) = (Some(&self.policy.times), TimeRules::NOTHING);
                let expired = scope.limits().begin(None, outer, &none, Duration::ZERO);
                request.extensions_mut().insert(open.carried_handle());
                (Place::Outermost(open), expired)
            }
        };
        let info = RequestInfo::of(&request);
        match expired {
            None => {
                let entered = place.enter();
                let inner = self.inner.call(request);
                Place::returned(entered);
                if let Place::Outermost(open) = &place {
                    open.called();
                }
                ResponseFuture::running(inner, place, info, None)
            }
            Some(source) => ResponseFuture::expired(place, source, info, None),
        }
    }
}
