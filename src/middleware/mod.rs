//! The tower layer, its service, and the future and body that carry a request's scope.

mod body;
mod body_error;
mod builder;
mod config;
mod deadline_context;
mod deadline_response;
mod expose;
mod future;
mod layer;
mod place;
mod policy;
mod request_body;
mod request_info;
mod respond;
mod service;
mod trust;

pub use self::body::ResponseBody;
pub use self::body_error::BodyTimeoutError;
pub use self::builder::MemoryLayerBuilder;
pub use self::deadline_context::DeadlineContext;
pub use self::deadline_response::ResponseForDeadline;
pub use self::expose::Expose;
pub use self::future::ResponseFuture;
pub use self::layer::MemoryLayer;
pub use self::policy::{PolicyFuture, PolicyService};
pub use self::request_body::{RequestBody, RequestBodyLayer, RequestBodyService};
pub use self::service::MemoryService;
