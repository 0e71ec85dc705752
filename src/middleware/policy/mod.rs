//! The layer that a [`MemoryPolicy`](crate::MemoryPolicy) is.

mod future;
mod layer;
mod service;

pub use self::future::PolicyFuture;
pub use self::service::PolicyService;
