use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::{arena::Arena, scope::RequestScope};

/// A response with a value as JSON, written into the request's arena.
///
/// Use it in place of `axum::Json`: the bytes are written to the arena of the present request and sent
/// from there without a copy. Without a [`MemoryLayer`](crate::MemoryLayer), they are written to a new
/// arena. A value that borrows from the arena cannot leave the handler; use [`Arena::json`] for it.
///
/// If the value cannot be serialized, the response is `500`, as described at [`Arena::json`].
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_memory::{MemoryLayer, extract::ArenaJson};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let app: Router = Router::new()
///     .route("/", get(|| async { ArenaJson(vec!["a", "b"]) }))
///     .layer(MemoryLayer::new());
/// let response = app.oneshot(Request::new(Body::empty())).await?;
/// assert_eq!(response.headers()["content-type"], "application/json");
/// assert_eq!(response.headers()["x-arena-source"], "fresh");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "a response does nothing unless it is returned"]
pub struct ArenaJson<T>(pub T);

impl<T> From<T> for ArenaJson<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Serialize> IntoResponse for ArenaJson<T> {
    fn into_response(self) -> Response {
        match RequestScope::current() {
            Some(scope) => scope.arena().json(&self.0),
            None => Arena::new().json(&self.0),
        }
    }
}
