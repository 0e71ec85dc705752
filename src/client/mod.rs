//! Deadlines of outgoing calls.
//!
//! A service that calls another one has to give it less time than it has itself. Otherwise the
//! caller gives up while the other service still works. [`PropagateDeadlineLayer`] wraps a client,
//! which is any `tower` service that takes `http::Request`s. Each call carries the remaining time of
//! the incoming request and is dropped when that request ends.
//!
//! # Why an error rather than a response
//!
//! If no time remains, the call is not sent and fails with a [`CallError`]. A `504` made here would
//! look as if the other service had sent it, and would need a body of the client's own type.
//! Therefore the error type changes, as with tower's own client layers. The error of the inner
//! service is the source of a [`CallError`].
//!
//! gRPC is the exception, since a gRPC client expects a status from a call that ends at its deadline:
//! there the call gets a response without a message, with the status `DEADLINE_EXCEEDED`, or `CANCELLED`
//! if the incoming request ended for another reason.

mod body;
mod error;
mod future;
mod layer;
mod service;

pub use self::body::CallBody;
pub use self::error::CallError;
pub use self::future::PropagateDeadlineFuture;
pub use self::layer::PropagateDeadlineLayer;
pub use self::service::PropagateDeadline;
