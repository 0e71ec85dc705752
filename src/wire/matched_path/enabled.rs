//! With axum, a request knows which route it matched.

use axum::extract::MatchedPath;
use http::Extensions;

/// The route's path as it was registered, if the request passed a router.
pub(crate) fn matched_path(extensions: &Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}
