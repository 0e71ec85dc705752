//! The HTTP side: header names and values, and the responses that the middleware builds itself.

mod answer;
mod collect;
pub mod deadline_header;
mod decimal;
pub mod header;
#[cfg(feature = "json")]
mod json;
mod line;
mod load_report;
#[cfg_attr(feature = "axum", path = "matched_path/enabled.rs")]
#[cfg_attr(not(feature = "axum"), path = "matched_path/disabled.rs")]
mod matched_path;
mod method;
mod protocol;

pub(crate) use self::answer::{
    CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE, grpc_answer, last_frame,
    overloaded, problem, problem_with, retry_after, shutting_down,
};
pub use self::collect::CollectError;
pub(crate) use self::load_report::report_load;
pub(crate) use self::matched_path::matched_path;
pub(crate) use self::method::known_method;
pub(crate) use self::protocol::Protocol;
#[cfg(all(feature = "axum", feature = "json"))]
pub(crate) use self::{collect::Whole, json::json_response};
