use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    body::ResponseBody,
    body_length::BodyLength,
    deadline_response::DeadlineResponses,
    ended_inside::EndedInside,
    ended_response::response_of,
    place::Place,
    request_info::RequestInfo,
    respond::{report_load, respond, respond_answer, respond_to},
};
use crate::{
    account::{Enter, Inside},
    cancel::{CancelReason, Outcome},
    deadline::{BodyKind, DeadlineSource, DeadlineTimer},
    observe::warn_policy_alone,
    sharded::Shard,
    sync::Arc,
};

pin_project! {
    /// The future of [`MemoryService`](crate::MemoryService) and
    /// [`PolicyService`](super::PolicyService).
    ///
    /// # Fairness
    ///
    /// The inner future is polled first, then the deadline, so a response that is ready at the deadline
    /// is sent. A request whose own deadline had passed on arrival has no inner future.
    ///
    /// # Cancel safety
    ///
    /// A server drops it when the client disconnects. Then the handler is dropped, the token is
    /// cancelled, and the scope ends with [`Outcome::Abandoned`](crate::Outcome::Abandoned).
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
    /// assert_eq!(snapshot.routes[0].outcomes.get(Outcome::Abandoned), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        // The inner service works on the request. The place is taken when the future is ready.
        Running {
            #[pin]
            inside: Inside<F, Option<Place>>,
            timer: DeadlineTimer,
            info: RequestInfo,
            responses: Option<Arc<Shard<DeadlineResponses>>>,
        },
        // The inner service works on the request, in the place of an outer layer's future.
        Passing {
            #[pin]
            inner: F,
            preflight: bool,
        },
        // The request was answered in `call`, and its scope is over or an outer layer's.
        Answered { answer: Response<Bytes> },
        Done,
    }
}

impl<F> ResponseFuture<F> {
    /// The inner service was called.
    pub(super) const fn running(
        inner: F,
        place: Place,
        info: RequestInfo,
        responses: Option<Arc<Shard<DeadlineResponses>>>,
    ) -> Self {
        Self {
            state: State::Running {
                inside: Inside::new(inner, Some(place)),
                timer: DeadlineTimer::new(),
                info,
                responses,
            },
        }
    }

    /// The inner service was called, within the future of an outer layer.
    pub(super) const fn passing(inner: F, preflight: bool) -> Self {
        Self {
            state: State::Passing { inner, preflight },
        }
    }

    /// The layer answers instead of the inner service, and the scope ends for `reason`.
    ///
    /// It ends before the answer is read, so a slow reader delays neither its tasks nor a shutdown.
    #[cold]
    pub(super) fn answered(
        mut answer: Response<Bytes>,
        place: Place,
        reason: CancelReason,
        info: RequestInfo,
    ) -> Self {
        if let Place::Outermost(open) = place {
            open.head(answer.status().as_u16(), BodyKind::None, false);
            if info.reports_load {
                report_load(&open, answer.headers_mut());
            }
            if let Some(exposed) = info.exposed {
                exposed.write(&open, answer.headers_mut());
            }
            open.finish(reason);
        }
        Self::ready(answer)
    }

    const fn ready(answer: Response<Bytes>) -> Self {
        Self {
            state: State::Answered { answer },
        }
    }

    /// The request's deadline, or the limit of a call, had passed before the inner service was called.
    #[cold]
    pub(super) fn expired(
        mut place: Place,
        source: DeadlineSource,
        info: RequestInfo,
        responses: Option<&DeadlineResponses>,
    ) -> Self {
        let reason = CancelReason::deadline(source);
        let scope = place.scope().clone();
        if matches!(place, Place::Outermost(_)) {
            scope.cancel_for(reason);
        }
        let ended = EndedInside {
            cause: scope.cancelled_for(reason),
            on_arrival: true,
            wants_body: false,
            answered: !place.is_policy(),
        };
        let guard = place.enter();
        let answer = response_of(&scope, ended, info, responses);
        Place::returned(guard);
        drop(scope);
        match place {
            Place::Outermost(_) => Self::answered(answer, place, reason, info),
            Place::Nested(_) => Self::ready(marked(answer, ended)),
        }
    }
}

#[cold]
fn polled_again() -> ! {
    panic!("`ResponseFuture` polled after completion")
}

fn shared(responses: &Option<Arc<Shard<DeadlineResponses>>>) -> Option<&DeadlineResponses> {
    responses.as_ref().map(|responses| &***responses)
}

/// Tells the layers around a call that a limit has ended it.
fn marked<B>(mut response: Response<B>, ended: EndedInside) -> Response<B> {
    response.extensions_mut().insert(ended);
    response
}

/// As [`end`], for the limit of this request, or of this call.
#[cold]
#[inline(never)]
fn end_pending<F, R>(
    inside: Pin<&mut Inside<F, Option<Place>>>,
    reason: CancelReason,
    info: RequestInfo,
    responses: Option<&DeadlineResponses>,
) -> Response<ResponseBody<R>> {
    let Some(place) = inside.place().as_ref() else {
        unreachable!("a running future has a place");
    };
    let ended = EndedInside {
        cause: place.scope().cancelled_for(reason),
        on_arrival: false,
        wants_body: false,
        answered: true,
    };
    end(inside, ended, info, responses)
}

/// Drops the handler of a request, or of a call, that a limit has ended, and answers instead.
///
/// Only the layer that has opened the scope cancels it. A call cannot know whether its response becomes
/// the request's: if it does, that layer finds the mark.
#[cold]
#[inline(never)]
fn end<F, R>(
    mut inside: Pin<&mut Inside<F, Option<Place>>>,
    mut ended: EndedInside,
    info: RequestInfo,
    responses: Option<&DeadlineResponses>,
) -> Response<ResponseBody<R>> {
    let Some(place) = inside.place().as_ref() else {
        unreachable!("a running future has a place");
    };
    let scope = place.scope().clone();
    let is_outermost = matches!(place, Place::Outermost(_));
    ended.answered = !place.is_policy();
    let reason = ended.cause.reason();
    // Read before the handler is dropped, which then waits for nothing.
    ended.wants_body |= reason.deadline_source() == Some(DeadlineSource::RequestBodyIdleTimeout)
        || scope.limits().wants_body();
    if is_outermost {
        scope.cancel_for(reason);
    }
    let mut answer = inside.as_mut().run(|mut handler| {
        handler.set(None);
        response_of(&scope, ended, info, responses)
    });
    drop(scope);
    if !is_outermost {
        answer = marked(answer, ended);
    }
    respond_answer(inside.place_mut().take(), answer, info)
}

/// The response of a call inside of `place` that a limit has ended: that of the nearest layer. If it is
/// the request's, the request has exceeded that limit.
#[cold]
#[inline(never)]
fn ended_inside<F, R: Body + Send + 'static>(
    inside: Pin<&mut Inside<F, Option<Place>>>,
    mut response: Response<R>,
    length: BodyLength,
    ended: EndedInside,
    info: RequestInfo,
    responses: Option<&DeadlineResponses>,
) -> Response<ResponseBody<R>> {
    match inside.place() {
        Some(Place::Outermost(open)) if ended.answered => {
            open.scope().cancel_for(ended.cause.reason());
            // Another request may have sent this one, and its response is another one.
            response.extensions_mut().remove::<EndedInside>();
        }
        Some(place) if !ended.answered && !place.is_policy() => {
            return end(inside, ended, info, responses);
        }
        _ => {}
    }
    let place = inside.place_mut().take();
    respond(place, response, length, info)
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    // For the body's length, which is asked for once, when there is a response. The rest because the
    // housekeeping drops a body at its limit.
    R: Body + Send + 'static,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    /// # Panics
    ///
    /// Panics if polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let output = match state.as_mut().project() {
            StateProjection::Running {
                mut inside,
                timer,
                info,
                responses,
            } => {
                // Not by `run`, which would move the response once more.
                let (mut slot, entered) = inside.as_mut().enter();
                let Some(future) = slot.as_mut().as_pin_mut() else {
                    polled_again();
                };
                let polled = future.poll(cx);
                let mut length = BodyLength::NONE;
                if let Poll::Ready(result) = &polled {
                    slot.set(None);
                    // A body may panic when it is asked for its length, so that is done inside, too.
                    if let Ok(response) = result {
                        length = BodyLength::of(response.body());
                    }
                }
                <Option<Place>>::returned(entered);
                if let Poll::Ready(Ok(response)) = &polled {
                    if response.extensions().get::<EndedInside>().is_none() {
                        let place = inside.place_mut().take();
                        // The rest is dropped with this future, and is nothing as a rule.
                        timer.stop();
                        // Returned from here, so that it is made where the caller wants it.
                        return respond_to(polled, place, length, *info);
                    }
                }
                match polled {
                    Poll::Ready(Ok(response)) => {
                        let Some(&ended) = response.extensions().get::<EndedInside>() else {
                            unreachable!("it was found above");
                        };
                        let info = *info;
                        let responses = shared(responses);
                        Ok(ended_inside(
                            inside, response, length, ended, info, responses,
                        ))
                    }
                    Poll::Ready(Err(error)) => {
                        if let Some(Place::Outermost(open)) = inside.place_mut().take() {
                            open.finish(CancelReason::new(Outcome::ServiceError));
                        }
                        Err(error)
                    }
                    Poll::Pending => {
                        let place = inside.as_mut().place_mut();
                        let reason = place
                            .as_mut()
                            .and_then(|place| place.poll_limits(timer, cx));
                        let Some(reason) = reason else {
                            return Poll::Pending;
                        };
                        Ok(end_pending(inside, reason, *info, shared(responses)))
                    }
                }
            }
            StateProjection::Passing { inner, preflight } => {
                ready!(inner.poll(cx)).map(|response| {
                    warn_policy_alone(!*preflight && response.status().is_success());
                    response.map(|body| ResponseBody::nested(body, None))
                })
            }
            StateProjection::Answered { answer } => {
                let answer = std::mem::take(answer);
                Ok(answer.map(|bytes| ResponseBody::answer(bytes, None, BodyLength::NONE)))
            }
            StateProjection::Done => polled_again(),
        };
        state.set(State::Done);
        Poll::Ready(output)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.state {
            State::Running { inside, .. } => inside.place().as_ref(),
            _ => None,
        };
        f.debug_struct("ResponseFuture")
            .field("scope", &place.map(Place::scope))
            .finish_non_exhaustive()
    }
}
