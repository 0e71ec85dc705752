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
/// use tower_memory::{Expose, MemoryLayer};
///
/// let layer = MemoryLayer::new()
///     .expose(Expose::when(|request| request.headers.contains_key("x-debug")));
/// # let _ = layer;
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
