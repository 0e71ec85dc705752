use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{body::ResponseBody, future::ResponseFuture};
use crate::{
    cancel::CancelReason,
    deadline::{DeadlineSource, RoutePolicy},
    scope::RequestScope,
};

/// The service made by a [`RoutePolicy`] as a layer.
///
/// It applies the policy to the scope of each request. If the time that the policy allows had passed
/// before the request arrived, the inner service is not called, and the layer responds as it does when
/// a deadline passes. Outside any `MemoryLayer` it leaves the policy in the request's extensions for an
/// inner one.
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

impl<S, B, R> Service<Request<B>> for PolicyService<S>
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
        let scope = request.extensions().get::<RequestScope>();
        // A scope that has ended belongs to a request whose extensions were used again.
        match scope.filter(|scope| !scope.is_ended()) {
            Some(scope) => {
                if let Some(source) = scope.limits().apply(&self.policy, DeadlineSource::Policy) {
                    scope.cancel_for(CancelReason::deadline(source));
                    return ResponseFuture::expired_inside(source);
                }
            }
            None => {
                let outer = request.extensions().get::<RoutePolicy>().copied();
                let policy = self.policy.inside(outer.unwrap_or_default());
                request.extensions_mut().insert(policy);
            }
        }
        ResponseFuture::passing(self.inner.call(request))
    }
}
