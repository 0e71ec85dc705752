//! Headers that say how long a request may take, read and written.
//!
//! | header | who sends it | value |
//! |---|---|---|
//! | `grpc-timeout` | gRPC clients | at most 8 digits and one of `H M S m u n` ([gRPC over HTTP/2, "Requests"](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests)) |
//! | `x-envoy-expected-rq-timeout-ms` | Envoy, to the service behind it | milliseconds ([Envoy, "HTTP header manipulation" of the router filter](https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter)) |
//! | `x-request-timeout-ms` | whoever agreed on it | milliseconds |
//! | `x-request-start` | proxies in front of a queue | when the request came in; see [`RequestStart`] |
//!
//! A layer reads them only if it is told to trust them
//! ([`MemoryLayerBuilder::trust_deadline`](crate::middleware::MemoryLayerBuilder::trust_deadline)), and
//! [`PropagateDeadlineLayer`](crate::client::PropagateDeadlineLayer) writes them. The functions here
//! are what both use; they take any bytes, never panic and never allocate to read.

mod digits;
mod error;
mod kind;
mod request_start;

pub use self::error::{ParseDeadlineError, ParseDeadlineErrorKind};
pub use self::kind::DeadlineHeader;
pub use self::request_start::RequestStart;
