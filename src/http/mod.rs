//! What is said in HTTP: header names and values, and the answers the middleware gives itself.

pub mod header;
#[cfg(feature = "json")]
mod json;
#[cfg_attr(feature = "axum", path = "matched_path/enabled.rs")]
#[cfg_attr(not(feature = "axum"), path = "matched_path/disabled.rs")]
mod matched_path;
mod problem;

pub(crate) use self::matched_path::matched_path;
pub(crate) use self::problem::deadline_exceeded;
