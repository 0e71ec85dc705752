use std::fmt;

use http::{Request, request::Parts};

use super::head::with_head;
use crate::sync::Arc;

/// Which clients see the `x-alloc-*` and `x-arena-*` response headers.
///
/// The figures show any client how much work a request makes. By default they are sent in debug builds
/// only, so that a public service does not send them by accident.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{Expose, MemoryLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::builder()
///     .expose(Expose::when(|request| request.headers.contains_key("x-debug")))
///     .build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
///
/// let plain = service.clone().oneshot(Request::new(())).await?;
/// assert!(!plain.headers().contains_key("x-arena-bytes"));
/// let asking = Request::get("/").header("x-debug", "1").body(())?;
/// assert_eq!(service.oneshot(asking).await?.headers()["x-arena-bytes"], "0");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Expose {
    /// All clients.
    Always,
    /// All clients if the crate was built with `debug_assertions`, as in cargo's `dev` profile, and
    /// no client otherwise.
    #[default]
    DebugBuilds,
    /// No client.
    Never,
    /// Clients for whose request the function returns `true`. Made by [`Expose::when`].
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

impl Expose {
    /// Whether the client of a request is one of these.
    #[inline]
    pub(super) fn includes<B>(&self, request: &mut Request<B>) -> bool {
        match self {
            Self::Always => true,
            Self::DebugBuilds => cfg!(debug_assertions),
            Self::Never => false,
            Self::When(f) => with_head(request, |head| f(head)),
        }
    }

    /// Whether there may be such a client.
    pub(super) const fn includes_some(&self) -> bool {
        match self {
            Self::Always | Self::When(_) => true,
            Self::DebugBuilds => cfg!(debug_assertions),
            Self::Never => false,
        }
    }

    /// Clients for whose request `f` returns `true`. It is called before the inner service.
    #[must_use]
    pub fn when(f: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::When(Arc::new(f))
    }
}

impl fmt::Debug for Expose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "Always",
            Self::DebugBuilds => "DebugBuilds",
            Self::Never => "Never",
            Self::When(_) => "When(..)",
        })
    }
}
