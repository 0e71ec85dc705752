use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{current, handle::RequestScope};
use crate::{
    account::Writer,
    cancel::{CancelReason, Outcome},
};

/// Guard of [`RequestScope::hold`]: keeps the scope of an upgraded connection open.
///
/// Mostly it is given the future that serves the connection, with [`run`](Self::run).
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
/// let hold = held.recv()?; // kept by who serves the connection
/// assert!(!hold.scope().is_ended());
/// assert_eq!(layer.handle().snapshot().in_flight, 1);
/// drop(hold);
/// assert_eq!(layer.handle().snapshot().in_flight, 0);
/// # Ok(())
/// # }
/// ```
#[must_use = "the scope is held until the guard is dropped"]
pub struct ScopeHold {
    /// `None` only in the middle of `drop`, or while a [`HoldFuture`] future is polled.
    scope: Option<RequestScope>,
    holds: bool,
}

impl ScopeHold {
    pub(super) fn new(scope: &RequestScope) -> Self {
        Self {
            scope: Some(scope.clone()),
            holds: scope.inner().lifecycle.hold(),
        }
    }

    /// The scope that is held.
    #[must_use]
    pub fn scope(&self) -> &RequestScope {
        match &self.scope {
            Some(scope) => scope,
            None => unreachable!("only `drop` and polls empty the guard"),
        }
    }

    /// Runs the future that serves the connection inside the scope, which is held until it is over.
    ///
    /// What each of its polls, and its drop, allocates is accounted to the request, and
    /// [`RequestScope::current`] finds the scope in them. When the future has ended the scope ends,
    /// unless there are other holds: its token is cancelled and its tasks have their grace. If the
    /// future panics the outcome is [`Panicked`](crate::Outcome::Panicked).
    ///
    /// Nothing ends the future itself. When the server goes down it sees
    /// [`cancelled`](RequestScope::cancelled), as tasks do.
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
            future: Some(future),
            hold: Some(self),
        }
    }
}

impl Drop for ScopeHold {
    fn drop(&mut self) {
        let Some(scope) = self.scope.take() else {
            return;
        };
        if self.holds {
            let inner = scope.inner();
            inner.step(
                inner.lifecycle.release_hold(),
                CancelReason::new(Outcome::Completed),
            );
        }
    }
}

impl fmt::Debug for ScopeHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeHold")
            .field("scope", &self.scope)
            .field("holds", &self.holds)
            .finish()
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
    /// As cancel safe as the future inside: dropping it drops that one, inside the scope, and then
    /// the hold.
    #[must_use = "futures do nothing unless polled"]
    pub struct HoldFuture<F> {
        // Emptied as soon as it is ready, so that its drop is accounted too.
        #[pin]
        future: Option<F>,
        // After the future, and dropped as soon as that is ready.
        hold: Option<ScopeHold>,
    }

    impl<F> PinnedDrop for HoldFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let (true, Some(hold)) = (this.future.is_some(), this.hold.as_mut()) {
                let entered = current::enter(&mut hold.scope, Writer::Shared);
                this.future.set(None);
                entered.done();
            }
            *this.hold = None;
        }
    }
}

impl<F> HoldFuture<F> {
    /// The scope that is held; `None` after the future was ready.
    #[must_use]
    pub fn scope(&self) -> Option<&RequestScope> {
        self.hold.as_ref()?.scope.as_ref()
    }
}

impl<F: Future> Future for HoldFuture<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let (Some(future), Some(hold)) = (this.future.as_mut().as_pin_mut(), this.hold.as_mut())
        else {
            panic!("`HoldFuture` polled after completion");
        };
        let entered = current::enter(&mut hold.scope, Writer::Shared).or_panicked();
        let polled = future.poll(cx);
        if polled.is_ready() {
            this.future.set(None);
        }
        entered.done();
        if polled.is_ready() {
            *this.hold = None;
        }
        polled
    }
}

impl<F> fmt::Debug for HoldFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldFuture")
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}
