//! Without axum, route labels come from `MemoryLayerBuilder::route` or `RequestScope::set_route`.

use http::Extensions;

/// Returns `None`: without axum there is no matched route.
pub(crate) const fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}
