use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    deadline::DeadlineSource,
    middleware::{
        body::{BodyLength, ResponseBody},
        deadline_context::ExpiredInside,
    },
};

pin_project! {
    /// The future of [`PolicyService`](super::PolicyService).
    ///
    /// If the policy's time had passed before the request arrived, the inner service is not called and
    /// the request is answered as the layer answers a deadline.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct PolicyFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Running { #[pin] inner: F },
        Expired { source: DeadlineSource },
    }
}

impl<F> PolicyFuture<F> {
    pub(super) const fn running(inner: F) -> Self {
        Self {
            state: State::Running { inner },
        }
    }

    pub(super) const fn expired(source: DeadlineSource) -> Self {
        Self {
            state: State::Expired { source },
        }
    }
}

impl<F, R, E> Future for PolicyFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running { inner } => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(response.map(ResponseBody::nested)))
            }
            StateProjection::Expired { source } => {
                // The layer that opened the scope replaces it by its own answer.
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
                response
                    .extensions_mut()
                    .insert(ExpiredInside { source: *source });
                Poll::Ready(Ok(response.map(|bytes| {
                    ResponseBody::answer(bytes, None, BodyLength::NONE, false)
                })))
            }
        }
    }
}
