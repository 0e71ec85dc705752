//! Extractors and responses for axum, and a layer that labels routes.
//!
//! [`RequestScope`](crate::RequestScope) and [`Arena`](crate::Arena) are extractors. A handler behind
//! a [`MemoryLayer`](crate::MemoryLayer) takes them as arguments. `Option<RequestScope>` and
//! `Option<Arena>` are `None` without a layer, where the plain extractors reject the request with
//! [`MissingMemoryLayer`]. `Option<Pressure>` is [how tight memory is](crate::limit::Pressure).

mod buffer;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "json")]
mod json_body;
mod label;
mod rejection;
mod scope;

pub use self::label::{RouteLabelLayer, RouteLabelService};
pub use self::rejection::MissingMemoryLayer;
#[cfg(feature = "json")]
pub use self::{json::ArenaJson, json_body::JsonBody};
