use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::arena::Arena;

impl Arena {
    /// A response with `value` as JSON, written into a buffer of this arena.
    ///
    /// The body is whatever can be made from [`Bytes`]: `axum::body::Body`, which makes this
    /// an `axum::response::Response`, or `http_body_util::Full<Bytes>`.
    ///
    /// If the value cannot be written the response is `500` with a problem description, and its
    /// extensions hold the error's text as a `String`; use [`to_json`](Self::to_json) to
    /// handle the error yourself.
    ///
    /// # Examples
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::Response;
    ///
    /// let arena = tower_memory::Arena::new();
    /// let mut names = arena.vec_with_capacity(2);
    /// names.push(arena.alloc_str("a"));
    /// names.push(arena.alloc_str("b"));
    /// let response: Response<Bytes> = arena.json(&names);
    /// assert_eq!(response.headers()["content-type"], "application/json");
    /// assert_eq!(response.body(), r#"["a","b"]"#);
    /// ```
    #[must_use]
    pub fn json<T, B>(&self, value: &T) -> Response<B>
    where
        T: Serialize + ?Sized,
        B: From<Bytes>,
    {
        const PROBLEM: &str = "{\"type\":\"about:blank\",\"title\":\"Internal Server Error\",\
             \"status\":500,\"detail\":\"the response could not be written as json\"}";

        let (status, content_type, body, error) = match self.to_json(value) {
            Ok(body) => (StatusCode::OK, "application/json", body, None),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/problem+json",
                Bytes::from_static(PROBLEM.as_bytes()),
                Some(error),
            ),
        };
        let mut response = Response::new(B::from(body));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(error) = error {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let text = source.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
            response.extensions_mut().insert(text);
        }
        response
    }
}
