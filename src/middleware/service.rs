use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::ResponseBody,
    call::{BoxedCall, Call},
    config::Config,
    deadline_response::DeadlineResponses,
    dispatch::Dispatch,
    future::ResponseFuture,
    place::Place,
    readiness::Readiness,
    request_info::RequestInfo,
};
use crate::{
    account::Enter,
    cancel::{CancelReason, Outcome},
    deadline::{DeadlineSource, RequestTimes},
    observe::policy_was_taken,
    route::{RouteKey, UNMATCHED},
    scope::{OpenScope, RequestScope, RoutePolicy},
    sharded::{Shard, ShardedRef},
    sync::Arc,
    wire::{known_method, matched_path, shutting_down},
};

/// The service made by [`MemoryLayer`](crate::MemoryLayer).
///
/// It is ready when the inner service is, acquires nothing before `call`, and keeps the error type: a
/// request that it refuses gets a response. Clones share the layer's state. A clone is as ready as a
/// clone of the inner service.
///
/// The time for which it was not ready counts towards the deadlines of the request that is called next.
/// If they have passed by then, the layer answers and the inner service is not called. A clone starts
/// without such a time. So does the next request of a service that became ready and was not called.
/// While a request waits, it is not [in flight](crate::observe::Snapshot::in_flight), and nothing can
/// answer it: prefer services whose futures wait (see `docs/guide/placing.md`).
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
/// let bare = inner.oneshot(Request::new(())).await?;
/// assert!(bare.headers().is_empty());
/// let response = MemoryLayer::new().layer(inner).oneshot(Request::new(())).await?;
/// assert!(response.headers().contains_key("x-arena-source"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryService<S> {
    inner: S,
    config: ShardedRef<Config>,
    readiness: Readiness,
}

impl<S> MemoryService<S> {
    pub(super) const fn new(inner: S, config: ShardedRef<Config>) -> Self {
        Self {
            inner,
            config,
            readiness: Readiness::Immediate,
        }
    }
}

impl Config {
    /// The responses at deadlines, if there are some, for a future.
    #[inline]
    fn responses_here(&self) -> Option<Arc<Shard<DeadlineResponses>>> {
        self.responses
            .as_ref()
            .map(|responses| Arc::clone(responses.here()))
    }

    /// The times in the trusted headers.
    fn times<B>(&self, request: &Request<B>) -> Option<RequestTimes> {
        let trust = self.trust.as_ref()?;
        Some(trust.times(request.headers(), &self.handle.layer))
    }

    /// Finds out what the client of a request sees.
    #[inline(never)]
    fn tell<B>(&self, info: &mut RequestInfo, request: &mut Request<B>) {
        if self.expose.includes(request) {
            info.exposed = Some(self.exposed.to(request));
        }
        info.reports_load = self.load.report.includes(request);
    }

    /// Admits a new request and sets the limit of what it holds, or returns the answer to it. One that is
    /// `part_of` another one is admitted with that.
    #[inline(never)]
    fn limit_memory<B>(
        &self,
        open: &OpenScope,
        request: &mut Request<B>,
        outer: Option<RoutePolicy>,
        part_of: bool,
        is_new: bool,
        info: RequestInfo,
    ) -> Option<Response<Bytes>> {
        let scope = open.scope();
        if !part_of && self.load.looks() {
            let priority = self.priority(request);
            let priority = priority.or_else(|| outer.and_then(|policy| policy.priority));
            let refused = self.refuses(scope, priority, is_new, info);
            if refused.is_some() {
                return refused;
            }
        }
        let most = match &outer {
            None => self.limits.request_limit,
            Some(_) if bug!("limit-of-a-route-ignored") => self.limits.request_limit,
            Some(outer) => self.limits.request_limit.inside(outer.request_limit),
        };
        scope.begin_request_limit(most);
        None
    }

    /// Begins a call in a scope that an outer layer has opened. Also returns the source of a deadline
    /// that has passed already.
    fn begin_call<B>(
        &self,
        scope: RequestScope,
        request: &Request<B>,
    ) -> (BoxedCall, Option<DeadlineSource>) {
        if let Some(path) = matched_path(request.extensions()) {
            if let Some(carried) = request.extensions().get::<RequestScope>() {
                carried.set_matched_path(path);
            }
        } else if self.route != UNMATCHED {
            scope.set_configured_route(self.handle.layer.routes.route(self.route).label.as_str());
        }
        let expired = scope.limits().begin_inner(self.times(request));
        let (call, passed) = Call::begin(scope, &self.limits, true);
        (call, expired.or(passed))
    }
}

impl<S> MemoryService<S> {
    /// Calls the inner service within the scope of an outer layer.
    #[inline(never)]
    fn call_nested<B>(
        &mut self,
        scope: RequestScope,
        request: Request<B>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>>,
    {
        let info = RequestInfo::of(&request);
        let (call, expired) = self.config.begin_call(scope, &request);
        let place = Place::Nested(call);
        match expired {
            None => {
                let responses = self.config.responses_here();
                ResponseFuture::running(self.inner.call(request), place, info, responses)
            }
            Some(source) => {
                let responses = self.config.responses.as_deref();
                ResponseFuture::expired(place, source, info, responses)
            }
        }
    }
}

impl<S, B, R> Service<Request<B>> for MemoryService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body + Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        self.readiness.polled(ready.is_ready(), cx);
        ready
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let waited = self.readiness.take();
        let mut origin = match Dispatch::at_layer(request.extensions()) {
            Dispatch::Inside(scope) => return self.call_nested(scope, request),
            Dispatch::New(origin) => origin,
        };

        let config = &*self.config;
        let mut info = RequestInfo::of(&request);
        if config.tells {
            config.tell(&mut info, &mut request);
        }
        let layer = &config.handle.layer;
        let (route, own) = origin.route(request.extensions(), config.route, &layer.routes);
        let method = known_method(request.method());
        let parent = origin.parent.take();
        let key = RouteKey { route, method };
        let mut open = OpenScope::new(config.layer.here(), key, own, waited, parent.as_ref());
        open.copied_from(origin.into_path());
        // A request that one of the layer's open requests has sent is part of what a shutdown waits for.
        let part_of = parent.filter(|parent| parent.is_of(layer));
        // After the request was counted: a shutdown waits for it, or it is refused.
        if layer.shutdown.has_begun() {
            if let Some(parent) = &part_of {
                if parent.is_spared() {
                    open.spare();
                }
            } else {
                if !config.draining.serves(&mut request) {
                    let retry_after = config.draining.retry_after;
                    let answer = shutting_down(info.protocol, info.http1, retry_after);
                    let reason = CancelReason::new(Outcome::Shutdown);
                    return ResponseFuture::answered(answer, Place::Outermost(open), reason, info);
                }
                open.spare();
            }
        }
        // It is this request's, and not that of a request made of the same extensions.
        let outer = request.extensions().get::<RoutePolicy>().copied();
        if outer.is_some() {
            request.extensions_mut().remove::<RoutePolicy>();
            policy_was_taken();
        }
        if config.limits_memory || outer.is_some() {
            let (is_part, is_new) = (part_of.is_some(), waited.is_zero());
            let refused = config.limit_memory(&open, &mut request, outer, is_part, is_new, info);
            if let Some(answer) = refused {
                let reason = CancelReason::new(Outcome::Shed);
                return ResponseFuture::answered(answer, Place::Outermost(open), reason, info);
            }
        }
        let limits = open.scope().limits();
        let expired = if waited.is_zero() && outer.is_none() && config.trust.is_none() {
            limits.begin_first(&config.first);
            None
        } else {
            let times = config.times(&request);
            limits.begin(
                times,
                outer.as_ref().map(|outer| &outer.times),
                &config.limits.times,
                waited,
            )
        };
        if let Some(source) = expired {
            let entered = open.enter();
            drop(request);
            entered.done();
            let responses = config.responses.as_deref();
            return ResponseFuture::expired(Place::Outermost(open), source, info, responses);
        }
        request.extensions_mut().insert(open.carried_handle());
        let entered = open.enter();
        let inner = self.inner.call(request);
        entered.done();
        open.called();
        let responses = config.responses_here();
        ResponseFuture::running(inner, Place::Outermost(open), info, responses)
    }
}
