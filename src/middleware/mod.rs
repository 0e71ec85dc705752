//! The tower layer, its service, and the future and body that carry a request's scope.

mod body;
mod body_error;
mod body_timer;
mod expired;
mod expose;
mod future;
mod layer;
mod policy;
mod request_body;
mod response_for;
mod service;
mod trust;

pub use self::body::ResponseBody;
pub use self::body_error::BodyTimeoutError;
pub use self::expired::Expired;
pub use self::expose::Expose;
pub use self::future::ResponseFuture;
pub use self::layer::MemoryLayer;
pub use self::policy::{PolicyFuture, PolicyService};
pub use self::request_body::{RequestBody, RequestBodyLayer, RequestBodyService};
pub use self::response_for::ResponseForDeadline;
pub use self::service::MemoryService;
