use axum::response::{IntoResponse, Response};

use crate::arena::ArenaBuf;

/// A `200` response with the buffer as its body, without a copy. The content type is
/// `application/octet-stream` by default, as for [`Bytes`](bytes::Bytes).
impl IntoResponse for ArenaBuf {
    fn into_response(self) -> Response {
        self.freeze().into_response()
    }
}
