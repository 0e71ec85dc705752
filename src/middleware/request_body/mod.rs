//! A layer that watches the request's body arrive.
//!
//! # Why a layer of its own
//!
//! Only code that sees the request's body being read can tell a slow client from a slow handler. For
//! that the body has to be wrapped, which changes the request's type for everything further in.
//! [`MemoryLayer`](crate::MemoryLayer) leaves requests unchanged, so that it fits around any service.
//! This layer is for services that tell `408` from `504`.

mod body;
mod layer;
mod service;

pub use self::body::RequestBody;
pub use self::layer::RequestBodyLayer;
pub use self::service::RequestBodyService;
