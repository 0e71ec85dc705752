//! Outgoing calls: what remains of a request's deadline goes with them.
//!
//! A service that calls others has to leave them less time than it has itself, or it gives up while
//! they still work. [`PropagateDeadlineLayer`] goes around a client (any `tower` service that takes
//! `http::Request`s): each call made on behalf of a request tells the other side how long that
//! request still has, and ends with it.
//!
//! # An error, and not a response
//!
//! Where nothing remains, the call is not made and fails with a [`CallError`]. A response that says
//! `504` would look as if the other side had sent it, and needs a body that the client's type may not
//! be able to make. So the error type changes, as with tower's own client layers; the inner service's
//! errors come as its source.

mod error;
mod future;
mod layer;
mod service;

pub use self::error::{CallError, CallErrorKind};
pub use self::future::PropagateDeadlineFuture;
pub use self::layer::PropagateDeadlineLayer;
pub use self::service::PropagateDeadline;
