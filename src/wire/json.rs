use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::answer::problem;
use crate::{arena::Arena, json::DeserializeError};

impl Arena {
    /// Serializes `value` as JSON into a buffer of this arena, and returns it as a `200` response.
    ///
    /// The body is any type made from [`Bytes`]: `axum::body::Body`, which makes this
    /// an `axum::response::Response`, or `http_body_util::Full<Bytes>`.
    ///
    /// If the value cannot be serialized, the response is `500` with a problem description
    /// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), and its extensions hold the
    /// [`SerializeError`](crate::json::SerializeError), for a log. The client does not see it. To handle the
    /// error yourself, use [`json_bytes`](Self::json_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// use bytes::Bytes;
    /// use http::Response;
    /// use tower_memory::json::SerializeError;
    ///
    /// let arena = tower_memory::Arena::new();
    /// let mut names = arena.vec_with_capacity(2);
    /// names.push(arena.alloc_str("a"));
    /// names.push(arena.alloc_str("b"));
    /// let response: Response<Bytes> = arena.json(&names);
    /// assert_eq!(response.headers()["content-type"], "application/json");
    /// assert_eq!(response.body(), r#"["a","b"]"#);
    ///
    /// // Map keys must be strings.
    /// let response: Response<Bytes> = arena.json(&BTreeMap::from([([1], 2)]));
    /// assert_eq!(response.status(), 500);
    /// assert!(response.extensions().get::<SerializeError>().is_some());
    /// ```
    #[must_use]
    pub fn json<T, B>(&self, value: &T) -> Response<B>
    where
        T: Serialize + ?Sized,
        B: From<Bytes>,
    {
        match self.json_bytes(value) {
            Ok(body) => json_response(body),
            Err(error) => {
                let detail = "the response could not be serialized as JSON";
                let mut response = problem(StatusCode::INTERNAL_SERVER_ERROR, &detail).map(B::from);
                response.extensions_mut().insert(error);
                response
            }
        }
    }
}

/// Builds a `200` response with JSON as its body.
pub(crate) fn json_response<B: From<Bytes>>(json: Bytes) -> Response<B> {
    let mut response = Response::new(B::from(json));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

impl DeserializeError {
    /// Returns the status to respond with: `400` if the text is not JSON, and `422` if it does not fit
    /// the type.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        if self.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        }
    }
}
