use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    arena::Arena,
    json::{DeserializeError, List},
    scope::RequestScope,
    wire::{json_response, problem},
};

/// A JSON response, serialized into the arena of the current request.
///
/// It replaces `axum::Json` as a return type. The bytes are written to the request's arena and sent
/// from there without a copy. Outside of a [`MemoryLayer`](crate::MemoryLayer) they are written to a
/// new arena. A value that borrows from the arena cannot leave the handler: serialize it with
/// [`Arena::json`] instead.
///
/// A value that fails to serialize becomes a `500`, as with `axum::Json`.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_memory::{MemoryLayer, extract::ArenaJson};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app: Router = Router::new()
///     .route("/", get(|| async { ArenaJson(vec!["a", "b"]) }))
///     .layer(MemoryLayer::new());
/// let response = app.oneshot(Request::new(Body::empty())).await?;
/// assert_eq!(response.headers()["content-type"], "application/json");
/// assert_eq!(response.headers()["x-arena-source"], "fresh");
/// # Ok(())
/// # }
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

/// A `200` response with the list as its body, without a copy.
impl IntoResponse for List {
    fn into_response(self) -> Response {
        json_response(self.freeze())
    }
}

/// Responds with [`DeserializeError::status`] and a problem description
/// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with the error's text.
impl IntoResponse for DeserializeError {
    fn into_response(self) -> Response {
        // The text can quote the body, so it is escaped, and the quotes around it left out.
        let json = Value::from(self.to_string()).to_string();
        problem(self.status(), &&json[1..json.len() - 1])
            .map(Body::from)
            .into_response()
    }
}
