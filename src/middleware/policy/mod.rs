//! The layer that a [`RoutePolicy`](crate::RoutePolicy) is.

mod future;
mod service;

pub use self::future::PolicyFuture;
pub use self::service::PolicyService;
