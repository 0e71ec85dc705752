use std::{error::Error, fmt};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::StatusCode;

use crate::{
    cancel::{Cancelled, Outcome},
    observe::warn_missing_layer,
    wire::{CollectError, problem, problem_with},
};

/// The rejection of [`RequestScope`](crate::RequestScope) and [`Arena`](crate::Arena) as extractors.
///
/// There is no [`MemoryLayer`](crate::MemoryLayer) around the handler. This is a misconfiguration of
/// the server, so the response is a `500` that says how to add the layer.
///
/// # Examples
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_memory::Arena;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let without_layer: Router = Router::new().route("/", get(|_arena: Arena| async {}));
/// let response = without_layer.oneshot(Request::new(Body::empty())).await?;
/// assert_eq!(response.status(), 500);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingMemoryLayer {
    extractor: &'static str,
}

impl MissingMemoryLayer {
    /// Also says it in the log, once.
    pub(super) fn new(extractor: &'static str) -> Self {
        let missing = Self { extractor };
        warn_missing_layer(&missing);
        missing
    }

    /// Returns the status of the response, which is `500`.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    /// Returns the body of the response.
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
             `.layer(MemoryLayer::new())` to the router, after the routes it should cover (routes \
             added later are not covered) and outside of any layer that rebuilds the request; if \
             the layer is there, it may come from another version of tower-memory than the \
             extractor: see `cargo tree -d`",
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

/// Responds with a problem description ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) without
/// figures: `504` after a deadline, `500` for a request that holds too much, and `503` otherwise.
impl IntoResponse for Cancelled {
    fn into_response(self) -> Response {
        let reason = self.reason();
        let mut response = match reason.outcome() {
            Outcome::DeadlineExceeded => problem(StatusCode::GATEWAY_TIMEOUT, &reason),
            Outcome::MemoryExceeded => problem_with(
                StatusCode::INTERNAL_SERVER_ERROR,
                &reason,
                format_args!(",\"durability\":\"permanent\""),
            ),
            _ => problem(StatusCode::SERVICE_UNAVAILABLE, &reason),
        };
        response.extensions_mut().insert(reason);
        response.map(Body::from)
    }
}

/// Responds with [`CollectError::status`] and a problem description
/// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
///
/// The response does not show the error of the body itself, which belongs in the server's log.
impl<E> IntoResponse for CollectError<E> {
    fn into_response(self) -> Response {
        let (status, detail) = (self.status(), self.to_string());
        // Without figures: what a request holds tells what the server does.
        let problem = if self.is_over_request_limit() {
            problem_with(
                status,
                &detail,
                format_args!(",\"durability\":\"permanent\""),
            )
        } else {
            problem(status, &detail)
        };
        problem.map(Body::from)
    }
}
