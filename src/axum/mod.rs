//! Extractors for axum, and a layer that names routes from inside a router.

mod extract;
mod label;
mod rejection;

pub use self::label::{RouteLabelLayer, RouteLabelService};
pub use self::rejection::MissingMemoryLayer;
