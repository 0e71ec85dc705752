//! A layer that watches the request's body arrive.
//!
//! # Why a layer of its own
//!
//! Whether the client or the handler was too slow is known only to who sees the request's body being
//! read, and to see that the body has to be wrapped, which changes the request's type for everything
//! further in. [`MemoryLayer`](crate::MemoryLayer) leaves requests as they are, so that it fits
//! around any service; this layer is for those who want `408` told from `504`.

mod body;
mod layer;
mod service;

pub use self::body::RequestBody;
pub use self::layer::RequestBodyLayer;
pub use self::service::RequestBodyService;
