use std::fmt;

use http::request::Parts;

use crate::sync::Arc;

/// Who sees the `x-alloc-*` and `x-arena-*` response headers.
///
/// The figures tell an outsider how much work a request makes, so a public service should not show
/// them to everybody.
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
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # runtime.block_on(async {
/// let layer = MemoryLayer::new()
///     .expose(Expose::when(|request| request.headers.contains_key("x-debug")));
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
///
/// let plain = service.clone().oneshot(Request::new(())).await?;
/// assert!(!plain.headers().contains_key("x-arena-bytes"));
/// let asking = Request::get("/").header("x-debug", "1").body(())?;
/// assert_eq!(service.oneshot(asking).await?.headers()["x-arena-bytes"], "0");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Expose {
    /// Everybody.
    #[default]
    Always,
    /// Nobody.
    Never,
    /// Whose request the function says yes to. Made by [`Expose::when`].
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

impl Expose {
    /// Those whose request `f` says yes to; it is asked before the service is called.
    #[must_use]
    pub fn when(f: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::When(Arc::new(f))
    }
}

impl fmt::Debug for Expose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "Always",
            Self::Never => "Never",
            Self::When(_) => "When(..)",
        })
    }
}
