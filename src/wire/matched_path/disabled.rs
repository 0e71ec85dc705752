//! Without axum, routes are named by `MemoryLayerBuilder::route` or `RequestScope::set_route`.

use http::Extensions;

/// No router left a path.
pub(crate) const fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}
