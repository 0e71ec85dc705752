//! The parts of [`MemoryLayer`](crate::MemoryLayer) and [`MemoryService`](crate::MemoryService): the
//! builder, the future and the body that carry a request's scope, and the layers to put inside.

mod admission;
mod body;
mod body_error;
mod body_length;
mod builder;
mod call;
mod config;
mod deadline_context;
mod deadline_response;
mod dispatch;
mod draining;
mod end_settings;
mod ended_inside;
mod ended_response;
pub(crate) mod expose;
mod exposed;
mod future;
mod head;
pub(crate) mod layer;
mod limit_context;
mod limit_response;
mod limit_settings;
mod load;
mod load_settings;
mod open_body;
mod place;
mod policy;
mod readiness;
mod request_body;
mod request_info;
mod respond;
pub(crate) mod service;
mod show_settings;
mod time_settings;
mod trust;

pub use self::body::ResponseBody;
pub use self::body_error::BodyTimeoutError;
pub use self::builder::MemoryLayerBuilder;
pub use self::deadline_context::DeadlineContext;
pub use self::future::ResponseFuture;
pub use self::limit_context::LimitContext;
pub use self::policy::PolicyService;
pub use self::request_body::{RequestBody, RequestBodyLayer, RequestBodyService};
