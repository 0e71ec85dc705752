//! With axum, the extensions hold the matched route.

use axum::extract::MatchedPath;
use http::Extensions;

/// Returns the path of the matched route as it was registered, if the request passed a router.
#[inline]
pub(crate) fn matched_path(extensions: &Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}
