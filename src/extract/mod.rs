//! Extractors and responses for axum, and a layer that names routes from inside a router.

mod buffer;
#[cfg(feature = "json")]
mod json;
mod label;
mod rejection;
mod scope;

#[cfg(feature = "json")]
pub use self::json::ArenaJson;
pub use self::label::{RouteLabelLayer, RouteLabelService};
pub use self::rejection::MissingMemoryLayer;
