//! The layer that a [`RoutePolicy`](crate::RoutePolicy) is.

mod future;
mod layer;
mod service;

pub use self::future::PolicyFuture;
pub use self::service::PolicyService;
