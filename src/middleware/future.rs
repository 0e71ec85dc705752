use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::{Extent, Progress, ResponseBody};
use crate::{
    cancel::{CancelReason, DeadlineSource},
    http as answers,
    scope::{Keeper, RequestScope},
};

/// What of the request decides about the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) exposed: bool,
    pub(super) head: bool,
    pub(super) connect: bool,
}

pin_project! {
    /// The future of [`MemoryService`](super::MemoryService).
    ///
    /// # Fairness
    ///
    /// The inner future is polled first, then the deadline: a response that is ready at the
    /// deadline is given.
    ///
    /// # Cancel safety
    ///
    /// Dropping it is how a server says that the client has gone: the handler is dropped, the
    /// token is cancelled, and the scope ends with
    /// [`Outcome::ClientGone`](crate::scope::Outcome::ClientGone).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // Emptied when it is over, so that its drop is accounted.
        #[pin]
        inner: Option<F>,
        // Made when the inner future was pending for the first time.
        #[pin]
        timer: Option<Sleep>,
        role: Role,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.role.run(|| this.inner.set(None));
        }
    }
}

enum Role {
    /// This layer opened the scope, and ends it.
    Opener {
        keeper: Keeper,
        exchange: Exchange,
    },
    /// An outer layer did.
    Nested {
        scope: RequestScope,
    },
    Over,
}

impl Role {
    /// Runs a part of the request inside its scope. Nested, the outer layer has done so already.
    fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        match self {
            Self::Opener { keeper, .. } => {
                let entered = keeper.enter();
                let result = f();
                entered.done();
                result
            }
            // It may be polled by a task of its own, out of the outer layer's sight.
            Self::Nested { scope } => scope.enter(f),
            Self::Over => f(),
        }
    }

    fn scope(&self) -> Option<&RequestScope> {
        match self {
            Self::Opener { keeper, .. } => keeper.scope(),
            Self::Nested { scope } => Some(scope),
            Self::Over => None,
        }
    }
}

impl Role {
    /// Turns the inner response, or our own answer, into the response that is given; `wrap` makes
    /// its body.
    fn respond<T, R>(
        self,
        response: Response<T>,
        extent: Extent,
        wrap: impl FnOnce(T, Option<Keeper>, Progress) -> ResponseBody<R>,
    ) -> Response<ResponseBody<R>> {
        let (mut parts, body) = response.into_parts();
        let Self::Opener { keeper, exchange } = self else {
            return Response::from_parts(parts, wrap(body, None, Progress::new(extent, false)));
        };
        let tunnel = exchange.connect && parts.status.is_success();
        keeper.head(tunnel || parts.status == StatusCode::SWITCHING_PROTOCOLS);
        if let (true, Some(scope)) = (exchange.exposed, keeper.scope()) {
            answers::header::write(
                scope,
                scope.usage(),
                scope.arena_usage(),
                &mut parts.headers,
            );
        }
        // Responses that have no body whatever the service put there; servers drop it unread.
        let bodiless = exchange.head
            || tunnel
            || parts.status.is_informational()
            || parts.status == StatusCode::NO_CONTENT
            || parts.status == StatusCode::NOT_MODIFIED;
        let extent = extent.or_length(|| {
            let length = parts.headers.get(header::CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        });
        let body = wrap(body, Some(keeper), Progress::new(extent, bodiless));
        Response::from_parts(parts, body)
    }
}

impl<F> ResponseFuture<F> {
    pub(super) const fn open(inner: F, keeper: Keeper, exchange: Exchange) -> Self {
        Self {
            inner: Some(inner),
            timer: None,
            role: Role::Opener { keeper, exchange },
        }
    }

    pub(super) const fn nested(inner: F, scope: RequestScope) -> Self {
        Self {
            inner: Some(inner),
            timer: None,
            role: Role::Nested { scope },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    // Asked once, when there is a response: a body that is at its end is dropped unread.
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut inner = this.inner;
        let polled = this.role.run(|| {
            let Some(future) = inner.as_mut().as_pin_mut() else {
                panic!("`ResponseFuture` polled after completion");
            };
            let polled = future.poll(cx);
            if polled.is_ready() {
                inner.set(None);
            }
            // Asked in here, since a body may panic when asked.
            polled.map_ok(|response| (Extent::of(response.body()), response))
        });
        match polled {
            Poll::Ready(Ok((extent, response))) => {
                let role = std::mem::replace(this.role, Role::Over);
                Poll::Ready(Ok(role.respond(response, extent, ResponseBody::open)))
            }
            Poll::Ready(Err(error)) => {
                if let Role::Opener { keeper, .. } = std::mem::replace(this.role, Role::Over) {
                    keeper.finish(CancelReason::ServiceError);
                }
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let Some(scope) = this.role.scope() else {
                    return Poll::Pending;
                };
                let Some(passed) = poll_deadline(scope, this.timer, cx) else {
                    return Poll::Pending;
                };
                let reason = CancelReason::DeadlineExceeded {
                    source: passed.source,
                };
                scope.cancel(reason);
                let after = scope.age();
                this.role.run(|| inner.set(None));
                let role = std::mem::replace(this.role, Role::Over);
                let answer = answers::deadline_exceeded(reason, after);
                let extent = Extent::of_bytes(answer.body());
                Poll::Ready(Ok(role.respond(answer, extent, ResponseBody::own)))
            }
        }
    }
}

struct Passed {
    source: DeadlineSource,
}

/// Whether the scope's deadline has passed. Makes the timer if there is none, and moves it if the
/// deadline has moved.
fn poll_deadline(
    scope: &RequestScope,
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Option<Passed> {
    loop {
        let (at, source) = scope.deadline_and_source()?;
        match timer.as_mut().as_pin_mut() {
            None => timer.set(Some(sleep_until(at))),
            Some(sleep) if sleep.deadline() != at => sleep.reset(at),
            Some(_) => {}
        }
        let sleep = timer.as_mut().as_pin_mut()?;
        // Without tokio's cooperative budget: a handler that used it up would never time out.
        if Pin::new(&mut tokio::task::unconstrained(sleep))
            .poll(cx)
            .is_pending()
        {
            return None;
        }
        if scope
            .deadline_and_source()
            .is_some_and(|(now, _)| now <= Instant::now())
        {
            return Some(Passed { source });
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("scope", &self.role.scope())
            .finish_non_exhaustive()
    }
}
