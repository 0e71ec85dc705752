use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    body::{Extent, Progress, ResponseBody},
    deadline_context::DeadlineContext,
    deadline_response::DeadlineResponses,
};
use crate::{
    cancel::{CancelReason, DeadlineSource, Outcome},
    scope::{BodyKind, Keeper, RequestScope},
    sync::Arc,
    wire::{self as answers, Protocol},
};

/// What of the request decides about the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) exposed: bool,
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) http1: bool,
    pub(super) protocol: Protocol,
}

pin_project! {
    /// The future of [`MemoryService`](super::MemoryService).
    ///
    /// # Fairness
    ///
    /// The inner future is polled first, then the deadline: a response that is ready at the
    /// deadline is given. A request whose own deadline had passed on arrival has no inner future.
    ///
    /// # Cancel safety
    ///
    /// Dropping it is how a server says that the client has gone: the handler is dropped, the
    /// token is cancelled, and the scope ends with
    /// [`Outcome::ClientGone`](crate::Outcome::ClientGone).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, Service, service_fn};
    /// use tower_memory::{MemoryLayer, Outcome};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::new();
    /// let mut service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// let future = service.call(Request::new(()));
    /// drop(future);
    /// let snapshot = layer.handle().snapshot();
    /// assert_eq!(snapshot.routes[0].outcomes.get(Outcome::ClientGone), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // Emptied when it is over, so that its drop is accounted.
        #[pin]
        inner: Option<F>,
        // Made when the inner future was pending for the first time.
        #[pin]
        timer: Option<Sleep>,
        role: Role,
        exchange: Exchange,
        // None unless the layer has answers of its own.
        answers: Option<Arc<DeadlineResponses>>,
        // Set until the first poll, if the deadline had passed on arrival.
        expired: Option<DeadlineSource>,
        // Whether the scope has this future's task.
        noted: bool,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.role.run(|| this.inner.set(None));
            this.role.forget_task(this.noted);
        }
    }
}

/// What the layer is to the request's scope.
pub(super) enum Role {
    /// This layer opened the scope, and ends it.
    Opener {
        keeper: Keeper,
    },
    /// The service was not called, and the scope is over.
    Refused {
        answer: Box<Response<Bytes>>,
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
            Self::Opener { keeper } => {
                let entered = keeper.enter();
                let result = f();
                entered.done();
                result
            }
            // It may be polled by a task of its own, out of the outer layer's sight.
            Self::Nested { scope } => scope.in_scope(f),
            Self::Refused { .. } | Self::Over => f(),
        }
    }

    fn scope(&self) -> Option<&RequestScope> {
        match self {
            Self::Opener { keeper } => keeper.scope(),
            Self::Nested { scope } => Some(scope),
            Self::Refused { .. } | Self::Over => None,
        }
    }
}

impl Role {
    /// Asks to be polled when somebody else moves the deadline. The opener alone: whatever an inner
    /// layer's future is inside of, the opener can answer.
    fn note_task(&self, noted: &mut bool, cx: &Context<'_>) {
        if let Self::Opener { keeper } = self {
            if let Some(scope) = keeper.scope() {
                *noted |= scope.wake_when_moved(cx.waker());
            }
        }
    }

    /// A scope may be held for long after the response; the connection's task is not kept with it.
    fn forget_task(&self, noted: &mut bool) {
        if std::mem::take(noted) {
            if let Some(scope) = self.scope() {
                scope.wake_no_more();
            }
        }
    }

    /// Turns the inner response, or our own answer, into the response that is given; `wrap` makes
    /// its body.
    fn respond<T, R>(
        self,
        response: Response<T>,
        extent: Extent,
        exchange: Exchange,
        wrap: impl FnOnce(T, Option<Keeper>, Progress) -> ResponseBody<R>,
    ) -> Response<ResponseBody<R>> {
        let (mut parts, body) = response.into_parts();
        let Self::Opener { keeper } = self else {
            return Response::from_parts(parts, wrap(body, None, Progress::new(extent, false)));
        };
        let tunnel = exchange.connect && parts.status.is_success();
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
        let progress = Progress::new(extent, bodiless);
        let grpc = exchange.protocol == Protocol::Grpc;
        let kind = match (progress.is_complete(), grpc) {
            (true, _) => BodyKind::None,
            (false, false) => BodyKind::Plain,
            // The deadline of a gRPC call is for all of it, and not for the response's head alone.
            (false, true) => BodyKind::WholeCall,
        };
        let upgrade = tunnel || parts.status == StatusCode::SWITCHING_PROTOCOLS;
        keeper.head(kind, upgrade);
        if let (true, Some(scope)) = (exchange.exposed, keeper.scope()) {
            answers::header::write(
                scope,
                scope.usage(),
                scope.arena_usage(),
                &mut parts.headers,
            );
        }
        let body = wrap(body, Some(keeper), progress).failing_in_trailers(grpc);
        Response::from_parts(parts, body)
    }

    /// DeadlineResponses a request whose handler was not run.
    ///
    /// # Panics
    ///
    /// If that has been done before, or there was a handler and it has ended.
    #[cold]
    #[inline(never)]
    fn not_called<R>(
        self,
        exchange: Exchange,
        configured: Option<&DeadlineResponses>,
        expired: Option<DeadlineSource>,
    ) -> Response<ResponseBody<R>> {
        match (self, expired) {
            (Self::Refused { answer }, _) => {
                let progress = Progress::new(Extent::of_bytes(answer.body()), exchange.head);
                answer.map(|body| ResponseBody::own(body, None, progress))
            }
            (role @ (Self::Opener { .. } | Self::Nested { .. }), Some(source)) => {
                let passed = Passed {
                    source,
                    on_arrival: true,
                };
                let nothing: Pin<&mut Option<()>> = std::pin::pin!(None);
                role.expired(nothing, exchange, configured, passed)
            }
            _ => panic!("`ResponseFuture` polled after completion"),
        }
    }

    /// Drops the handler, and answers a request whose deadline has passed.
    ///
    /// Out of line: it would make every poll's frame larger.
    #[cold]
    #[inline(never)]
    fn expired<F, R>(
        mut self,
        mut inner: Pin<&mut Option<F>>,
        exchange: Exchange,
        configured: Option<&DeadlineResponses>,
        passed: Passed,
    ) -> Response<ResponseBody<R>> {
        let expired = self.scope().cloned().map(|scope| {
            // Before the handler is dropped: then it waits for nothing any more.
            let wants_body = scope.wants_body();
            scope.cancel_for(CancelReason::deadline(passed.source));
            (scope, wants_body)
        });
        let answer = self.run(|| {
            inner.set(None);
            let Some((scope, wants_body)) = &expired else {
                return Response::default();
            };
            let expired = DeadlineContext {
                scope,
                source: passed.source,
                after: scope.age(),
                on_arrival: passed.on_arrival,
                wants_body: *wants_body,
                http1: exchange.http1,
                retry_after: configured.and_then(|answers| answers.retry_after),
            };
            expired.answer(exchange.protocol, configured)
        });
        drop(expired);
        let extent = Extent::of_bytes(answer.body());
        self.respond(answer, extent, exchange, ResponseBody::own)
    }
}

impl<F> ResponseFuture<F> {
    pub(super) const fn new(
        inner: Option<F>,
        expired: Option<DeadlineSource>,
        role: Role,
        exchange: Exchange,
        answers: Option<Arc<DeadlineResponses>>,
    ) -> Self {
        Self {
            inner,
            timer: None,
            role,
            exchange,
            answers,
            expired,
            noted: false,
        }
    }

    /// DeadlineResponses without the service. The scope ends here, for `reason`: what becomes of the answer
    /// is of no interest, and nobody has to wait for it.
    pub(super) fn refused(
        mut answer: Response<Bytes>,
        reason: CancelReason,
        keeper: Keeper,
        exchange: Exchange,
    ) -> Self {
        keeper.head(BodyKind::None, false);
        if let (true, Some(scope)) = (exchange.exposed, keeper.scope()) {
            let headers = answer.headers_mut();
            answers::header::write(scope, scope.usage(), scope.arena_usage(), headers);
        }
        keeper.finish(reason);
        let answer = Box::new(answer);
        Self::new(None, None, Role::Refused { answer }, exchange, None)
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
        let exchange = *this.exchange;
        if inner.is_none() {
            let configured = this.answers.as_deref();
            let role = std::mem::replace(this.role, Role::Over);
            let expired = this.expired.take();
            return Poll::Ready(Ok(role.not_called(exchange, configured, expired)));
        }
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
                this.role.forget_task(this.noted);
                let role = std::mem::replace(this.role, Role::Over);
                let response = role.respond(response, extent, exchange, ResponseBody::open);
                Poll::Ready(Ok(response))
            }
            Poll::Ready(Err(error)) => {
                this.role.forget_task(this.noted);
                if let Role::Opener { keeper } = std::mem::replace(this.role, Role::Over) {
                    keeper.finish(CancelReason::new(Outcome::ServiceError));
                }
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                // First the task, then the deadline: what is set in between wakes the task.
                this.role.note_task(this.noted, cx);
                let Some(scope) = this.role.scope() else {
                    return Poll::Pending;
                };
                let Some(passed) = poll_deadline(scope, this.timer, cx) else {
                    return Poll::Pending;
                };
                this.role.forget_task(this.noted);
                let configured = this.answers.as_deref();
                let role = std::mem::replace(this.role, Role::Over);
                Poll::Ready(Ok(role.expired(inner, exchange, configured, passed)))
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Passed {
    source: DeadlineSource,
    on_arrival: bool,
}

/// Whether the scope's deadline has passed. Makes the timer if there is none, and moves it if the
/// deadline has moved.
fn poll_deadline(
    scope: &RequestScope,
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Option<Passed> {
    loop {
        let (at, _) = scope.deadline_and_source()?;
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
        // It may have been moved or lifted since the timer was set.
        let (at, source) = scope.deadline_and_source()?;
        if at <= Instant::now() {
            return Some(Passed {
                source,
                on_arrival: false,
            });
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
