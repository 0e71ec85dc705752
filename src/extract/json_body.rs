use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    BoxError, Json, RequestExt,
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::JsonRejection},
};
use http::{HeaderMap, header};
use http_body::Frame;
use serde::{Deserialize, de::IgnoredAny};

use super::scope::scope;
use crate::{arena::Arena, json::DeserializeError, wire::Whole};

/// The body of a JSON request, kept so that values can borrow from it.
///
/// It replaces `axum::Json` as an extractor, in two steps: the handler takes the body, and
/// [`json`](Self::json) reads it as a value with `&str` fields, without a `String` for each. A body that came
/// in one frame is kept as it came; otherwise its frames are put together in the request's arena. Outside of
/// a [`MemoryLayer`](crate::MemoryLayer) there is a new arena.
///
/// # Rejections
///
/// Those of `axum::Json`: `415` for a content type that is not JSON, `413` for a body beyond
/// [`DefaultBodyLimit`](axum::extract::DefaultBodyLimit) (2 MB by default), and `400` for a body that fails.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, response::Response, routing::post};
/// use http::Request;
/// use serde::{Deserialize, Serialize};
/// use tower::ServiceExt;
/// use tower_memory::{
///     MemoryLayer,
///     extract::JsonBody,
///     json::{self, DeserializeError},
/// };
///
/// #[derive(Deserialize)]
/// struct Order<'a> {
///     #[serde(borrow)]
///     lines: Vec<Line<'a>>,
/// }
///
/// #[derive(Deserialize)]
/// struct Line<'a> {
///     sku: &'a str, // escapes or not
///     qty: u32,
/// }
///
/// #[derive(Serialize)]
/// struct Sold<'a> {
///     sku: &'a str,
///     cents: u32,
/// }
///
/// async fn order(body: JsonBody) -> Result<Response, DeserializeError> {
///     let order: Order<'_> = body.json()?;
///     let sold = order.lines.iter().map(|line| Sold { sku: line.sku, cents: 250 * line.qty });
///     Ok(body.arena().json(&json::seq(sold)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app: Router = Router::new().route("/", post(order)).layer(MemoryLayer::new());
/// let request = |json: &'static str| {
///     let request = Request::post("/").header("content-type", "application/json");
///     request.body(Body::from(json))
/// };
///
/// let response = app.clone().oneshot(request(r#"{"lines":[{"sku":"tea\n","qty":2}]}"#)?).await?;
/// let bytes = axum::body::to_bytes(response.into_body(), 1000).await?;
/// assert_eq!(bytes, r#"[{"sku":"tea\n","cents":500}]"#);
///
/// let response = app.oneshot(request(r#"{"lines":[{"sku":"tea","qty":-2}]}"#)?).await?;
/// assert_eq!(response.status(), 422);
/// let bytes = axum::body::to_bytes(response.into_body(), 1000).await?;
/// let problem = String::from_utf8(bytes.to_vec())?;
/// assert!(problem.contains("lines[0].qty: invalid value: integer `-2`, expected u32"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct JsonBody {
    arena: Arena,
    body: Whole,
}

impl JsonBody {
    /// Reads the body as a value that borrows from it, and from the arena where a text has escapes.
    ///
    /// The error is a response: `400` for what is not JSON, `422` for what does not fit the type, with the
    /// path, the reason and the position in a problem description.
    ///
    /// # Errors
    ///
    /// As [`Arena::deserialize_json`].
    ///
    /// # Panics
    ///
    /// If the arena has no memory.
    #[inline]
    pub fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, DeserializeError> {
        self.arena.deserialize_json(self.as_bytes())
    }

    /// Returns the body as it was sent.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.body {
            Whole::Frame(bytes) => bytes,
            Whole::Buffer(buf) => buf,
        }
    }

    /// Returns the arena of the request, for example for the response.
    #[must_use]
    #[inline]
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }
}

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = JsonRejection;

    async fn from_request(request: Request, _state: &S) -> Result<Self, JsonRejection> {
        check_content_type(request.headers()).await?;
        let (parts, body) = request.with_limited_body().into_parts();
        let arena = match scope(&parts) {
            Some(scope) => scope.arena().clone(),
            None => Arena::new(),
        };
        match Whole::read(&arena, body).await {
            Ok(body) => Ok(Self { arena, body }),
            Err(error) => {
                let text = error.to_string();
                match error.into_body_error() {
                    Some(error) => Err(rejection(error).await),
                    None => panic!("{text}"),
                }
            }
        }
    }
}

/// Rejects what `axum::Json` rejects. axum is asked, with an empty request, about all but the usual type.
async fn check_content_type(headers: &HeaderMap) -> Result<(), JsonRejection> {
    let content_type = headers.get(header::CONTENT_TYPE);
    if content_type.is_some_and(|content_type| content_type == "application/json") {
        return Ok(());
    }
    let mut request = Request::new(Body::from("0"));
    if let Some(content_type) = content_type {
        let content_type = content_type.clone();
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
    }
    Json::<IgnoredAny>::from_request(request, &())
        .await
        .map(|_| ())
}

/// Makes axum's rejection of a body that failed. Only axum can: it reads a body that fails in the same way.
async fn rejection(error: axum::Error) -> JsonRejection {
    let mut error: BoxError = error.into();
    // Each limit around a body wraps its error once more.
    loop {
        match error.downcast::<axum::Error>() {
            Ok(outer) => error = outer.into_inner(),
            Err(cause) => {
                let body = Body::new(Failed(Some(cause)));
                return match Bytes::from_request(Request::new(body), &()).await {
                    Err(rejection) => rejection.into(),
                    Ok(_) => unreachable!("the body fails"),
                };
            }
        }
    }
}

/// A body that fails.
struct Failed(Option<BoxError>);

impl http_body::Body for Failed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}
