use std::{error::Error, fmt};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::wire::CollectError;

/// The extractor found no scope in the request: `500`, since it is the server that is put together
/// wrongly.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_memory::Arena;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let without_layer: Router = Router::new().route("/", get(|_arena: Arena| async {}));
/// let response = without_layer.oneshot(Request::new(Body::empty())).await?;
/// assert_eq!(response.status(), 500);
/// # Ok::<_, std::convert::Infallible>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingMemoryLayer {
    extractor: &'static str,
}

impl MissingMemoryLayer {
    pub(super) const fn new(extractor: &'static str) -> Self {
        Self { extractor }
    }

    /// The status of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    /// The body of the response.
    #[must_use]
    pub fn body_text(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for MissingMemoryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "extractor `{}` of tower-memory {} found no request scope: add \
             `.layer(MemoryLayer::new())` to the router, after the routes it shall cover (routes \
             added later are not covered) and outside of any layer that makes requests anew; if it \
             is there, layer and extractor may come from two versions of tower-memory: see \
             `cargo tree -d`",
            self.extractor,
            env!("CARGO_PKG_VERSION"),
        )
    }
}

impl Error for MissingMemoryLayer {}

impl IntoResponse for MissingMemoryLayer {
    fn into_response(self) -> Response {
        (self.status(), self.body_text()).into_response()
    }
}

/// The answer to a body that could not be read into an arena, with a problem description
/// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
///
/// What the body's own error says is for the server's log, and not shown.
impl<E> IntoResponse for CollectError<E> {
    fn into_response(self) -> Response {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let body = format!(
            "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"detail\":\"{self}\"}}",
            status.as_u16(),
        );
        let content_type = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
    }
}
