//! The tower layer, its service, and the future and body that carry a request's scope.

mod body;
mod expose;
mod future;
mod layer;
mod service;

pub use self::body::ResponseBody;
pub use self::expose::Expose;
pub use self::future::ResponseFuture;
pub use self::layer::MemoryLayer;
pub use self::service::MemoryService;
