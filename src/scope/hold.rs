use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;

use super::{
    current::{self, EnteredScope},
    handle::RequestScope,
    shutdown::OpenRequest,
    stream::StreamPlace,
};
use crate::{
    account::{Enter, Inside, Writer},
    cancel::{CancelReason, Outcome},
    pool::ArenaPool,
};

impl RequestScope {
    /// Keeps the scope of an upgraded connection open until the guard is dropped.
    ///
    /// When a connection is upgraded (WebSocket), the HTTP response ends at once. Move the guard into
    /// the task that serves the connection. If the response is not an upgrade, the guard has no effect.
    ///
    /// An upgrade may fail after the handler: an outer layer replaces the response, or the connection ends. So a
    /// hold must be taken up within 10 s of the response
    /// ([`hold_timeout`](crate::middleware::MemoryLayerBuilder::hold_timeout)), by a poll of
    /// [`run`](ScopeHold::run) or by [`upgraded`](ScopeHold::upgraded). Otherwise the scope ends with
    /// [`Outcome::NotUpgraded`].
    pub fn hold(&self) -> ScopeHold {
        let mut hold = ScopeHold {
            scope: self.clone(),
            holds: self.state().lifecycle.hold(),
            stream: StreamPlace::none(),
            is_registered: false,
        };
        // So that a shutdown can end the scope. What holds it is not woken, unless it runs a future.
        hold.stream.register(self, true, Waker::noop());
        hold
    }

    /// Returns the pool that the request's arena comes from.
    ///
    /// For requests that last long. The request's own [`arena`](Self::arena) keeps all that is allocated until
    /// the request is over, so code that serves one message after the other rents an arena for each. These are
    /// not part of [`arena_usage`](Self::arena_usage).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn serve(scope: RequestScope) {
    ///     for n in 0..1000 {
    ///         let arena = scope.pool().rent(); // goes back after the message
    ///         let text = arena.alloc_fmt(format_args!("message {n}"));
    ///         assert!(text.starts_with("message"));
    ///     }
    ///     assert_eq!(scope.arena_usage().bytes, 0);
    /// }
    /// # use std::convert::Infallible;
    /// # use http::{Request, Response};
    /// # use http_body_util::Empty;
    /// # use tower::{Layer, ServiceExt, service_fn};
    /// # let layer = tower_memory::MemoryLayer::new();
    /// # let memory = layer.handle();
    /// # let service = layer.layer(service_fn(|request: Request<()>| async {
    /// #     let scope = request.into_parts().0.extensions.remove::<RequestScope>().expect("in the layer");
    /// #     serve(scope).await;
    /// #     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// # }));
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// # runtime.block_on(service.oneshot(Request::new(()))).unwrap();
    /// # let pool = memory.pool().stats();
    /// # assert_eq!((pool.rented, pool.misses), (0, 1), "one arena for all messages");
    /// ```
    #[must_use]
    pub fn pool(&self) -> &ArenaPool {
        &self.state().layer().pool
    }
}

/// Guard of [`RequestScope::hold`]: keeps the scope of an upgraded connection open.
///
/// Usually it runs the future that serves the connection, with [`run`](Self::run).
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, sync::mpsc};
///
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, held) = mpsc::channel();
/// let layer = MemoryLayer::new();
/// let service = layer.layer(service_fn(move |request: Request<()>| {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     let _ = sender.send(scope.hold());
///     let mut response = Response::new(Empty::<bytes::Bytes>::new());
///     *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
///     async { Ok::<_, Infallible>(response) }
/// }));
/// drop(service.oneshot(Request::new(())).await?);
///
/// let hold = held.recv()?; // kept by the code that serves the connection
/// hold.upgraded();
/// assert!(!hold.scope().is_ended());
/// assert_eq!(layer.handle().snapshot().in_flight, 1);
/// drop(hold);
/// assert_eq!(layer.handle().snapshot().in_flight, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the scope is held until the guard is dropped"]
pub struct ScopeHold {
    scope: RequestScope,
    /// `false` if the scope had ended before.
    holds: bool,
    stream: StreamPlace,
    /// Whether the waker of the future that it runs was registered in the place of the response's.
    is_registered: bool,
}

impl ScopeHold {
    /// Returns the scope that is held.
    #[must_use]
    pub const fn scope(&self) -> &RequestScope {
        &self.scope
    }

    /// Takes the hold up: the connection is upgraded, and the code that serves it owns the guard.
    ///
    /// Call it once the upgrade has succeeded. [`run`](Self::run) does that by itself.
    pub fn upgraded(&self) {
        let state = self.scope.state();
        state.lifecycle.take_up();
        state.cancel_untaken();
    }

    /// Runs the future that serves the connection inside the scope, which it holds until it is ready.
    ///
    /// Allocations in its polls and its drop are accounted to the request, and
    /// [`RequestScope::current`] returns the scope in them. When the future is ready the scope ends,
    /// unless there are other holds: its token is cancelled and its tasks get their grace period. If
    /// the future panics, the outcome is [`Panicked`](crate::Outcome::Panicked).
    ///
    /// A poll after the response is over takes the hold up.
    ///
    /// The future itself is not ended. At a shutdown it sees
    /// [`cancelled`](RequestScope::cancelled), as tasks do. If a shutdown [cuts it off], the future is
    /// dropped, and this one is never ready. So it is when the request holds more than its
    /// [limit](crate::middleware::MemoryLayerBuilder::request_limit), or is cancelled to free memory. What others
    /// free is no longer known of a connection that lasts, so only its arena and blocks of 64 KiB and more are.
    ///
    /// [cuts it off]: crate::MemoryHandle::shutdown_and_cut_off
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// # async fn upgraded() -> std::io::Result<Vec<u8>> { Ok(Vec::new()) }
    /// async fn handler(scope: RequestScope) {
    ///     let hold = scope.hold();
    ///     tokio::spawn(hold.run(async move {
    ///         let socket = upgraded().await?; // `hyper::upgrade::on(request)`
    ///         let _reader = scope.spawn(async { /* ends with the connection */ });
    ///         std::io::Result::Ok(socket.len())
    ///     }));
    /// }
    /// ```
    pub const fn run<F>(self, future: F) -> HoldFuture<F> {
        HoldFuture {
            inside: Inside::new(future, Some(self)),
            is_cut_off: false,
            is_taken_up: false,
        }
    }
}

impl ScopeHold {
    /// As [`upgraded`](Self::upgraded), if the response is over.
    fn take_up_if_done(&self) -> bool {
        let state = self.scope.state();
        let taken_up = state.lifecycle.take_up_if_done();
        if taken_up {
            state.cancel_untaken();
        }
        taken_up
    }

    /// Whether a shutdown has cut off the connection, or it holds too much. Otherwise it wakes the caller's task
    /// when that is so.
    fn is_cut_off(&mut self, taken_up: bool, cx: &Context<'_>) -> bool {
        if taken_up {
            // In place of the response's waker, which is over.
            self.scope.limits().register(cx.waker());
            self.is_registered = true;
        }
        if let Some(reason) = self.scope.exceeded() {
            self.scope.cancel_for(reason);
            return true;
        }
        if !self.stream.register(&self.scope, true, cx.waker()) {
            return false;
        }
        // The response may have ended after the others were cut off.
        self.scope.state().cut_off(true);
        self.scope.is_ended()
    }
}

impl Drop for ScopeHold {
    fn drop(&mut self) {
        self.stream.remove(&self.scope);
        if self.is_registered {
            // The scope may be kept for long, and must not keep the connection's task. If another hold has
            // registered its task meanwhile, that one is polled, and registers it again.
            self.scope.limits().wake();
        }
        if self.holds {
            let state = self.scope.state();
            let released = state.lifecycle.release_hold();
            state.advance(released, CancelReason::new(Outcome::Completed));
        }
    }
}

impl Enter for ScopeHold {
    type Guard<'a> = EnteredScope<'a>;

    fn enter(&mut self) -> EnteredScope<'_> {
        current::enter(self.scope.slot(), Writer::Shared).or_panicked()
    }

    fn returned(guard: EnteredScope<'_>) {
        guard.done();
    }
}

pin_project! {
    /// A future that runs inside a scope and holds it; made by [`ScopeHold::run`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, sync::mpsc};
    ///
    /// use http::{Request, Response, StatusCode};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, served) = mpsc::channel();
    /// let layer = MemoryLayer::new();
    /// let service = layer.layer(service_fn(move |request: Request<()>| {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
    ///     let connection = async { RequestScope::current().is_some() };
    ///     let _ = sender.send(tokio::spawn(scope.hold().run(connection)));
    ///     let mut response = Response::new(Empty::<bytes::Bytes>::new());
    ///     *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    ///     async { Ok::<_, Infallible>(response) }
    /// }));
    /// drop(service.oneshot(Request::new(())).await?);
    ///
    /// let found_its_scope = served.recv()?.await?;
    /// assert!(found_its_scope);
    /// assert_eq!(layer.handle().snapshot().in_flight, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as the inner future. Dropping it drops the inner future, inside the scope, and
    /// then the hold.
    #[must_use = "futures do nothing unless polled"]
    pub struct HoldFuture<F> {
        // The hold is released as soon as the future is ready.
        #[pin]
        inside: Inside<F, Option<ScopeHold>>,
        is_cut_off: bool,
        is_taken_up: bool,
    }
}

impl<F> HoldFuture<F> {
    /// Returns the scope that is held, or `None` once the future has completed.
    #[must_use]
    pub fn scope(&self) -> Option<&RequestScope> {
        self.inside.place().as_ref().map(ScopeHold::scope)
    }
}

impl<F: Future> Future for HoldFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if *this.is_cut_off {
            return Poll::Pending;
        }
        let mut inside = this.inside;
        if !*this.is_taken_up {
            let hold = inside.place().as_ref();
            *this.is_taken_up = hold.is_some_and(ScopeHold::take_up_if_done);
        }
        if let Poll::Ready(output) = inside.as_mut().poll(cx) {
            *inside.place_mut() = None;
            return Poll::Ready(output);
        }
        let taken_up = *this.is_taken_up;
        let hold = inside.as_mut().place_mut();
        if hold
            .as_mut()
            .is_some_and(|hold| hold.is_cut_off(taken_up, cx))
        {
            *this.is_cut_off = true;
            inside.as_mut().clear();
            *inside.place_mut() = None;
        }
        Poll::Pending
    }
}

impl<F> fmt::Debug for HoldFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldFuture")
            .field("hold", &self.inside.place())
            .finish_non_exhaustive()
    }
}
