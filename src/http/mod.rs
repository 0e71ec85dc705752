//! What is said in HTTP: header names and values, and the answers the middleware gives itself.

mod headers;
#[cfg(feature = "json")]
mod json;
#[cfg_attr(feature = "axum", path = "matched_path/enabled.rs")]
#[cfg_attr(not(feature = "axum"), path = "matched_path/disabled.rs")]
mod matched_path;
mod problem;

pub use self::headers::{
    X_ALLOC_BYTES, X_ALLOC_COUNT, X_ALLOC_PEAK, X_ALLOC_ROUTE, X_ARENA_BYTES, X_ARENA_SOURCE,
};

pub(crate) use self::headers::write;
pub(crate) use self::matched_path::matched_path;
pub(crate) use self::problem::deadline_exceeded;
