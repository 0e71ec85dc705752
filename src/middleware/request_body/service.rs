use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::body::RequestBody;
use crate::{observe::warn_request_body_alone, scope::RequestScope};

/// The service made by [`RequestBodyLayer`](super::RequestBodyLayer).
#[derive(Debug, Clone)]
pub struct RequestBodyService<S> {
    pub(super) inner: S,
}

impl<S, B> Service<Request<B>> for RequestBodyService<S>
where
    S: Service<Request<RequestBody<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let scope = request.extensions().get::<RequestScope>();
        if scope.is_none() {
            warn_request_body_alone();
        }
        // The body of a request that a handler has sent is not what the scope's client sends.
        let scope = scope.filter(|scope| scope.is_carried()).cloned();
        self.inner
            .call(request.map(|body| RequestBody::new(body, scope)))
    }
}
