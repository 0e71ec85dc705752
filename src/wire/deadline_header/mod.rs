//! Headers that carry the deadline or the start time of a request.
//!
//! | header | sent by | value |
//! |---|---|---|
//! | `grpc-timeout` | gRPC clients | at most 8 digits and one of `H M S m u n` ([gRPC over HTTP/2, "Requests"](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests)) |
//! | `x-envoy-expected-rq-timeout-ms` | Envoy, to the service behind it | milliseconds ([Envoy, "HTTP header manipulation" of the router filter](https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter)) |
//! | `x-request-timeout-ms` | any client, by agreement | milliseconds |
//! | `x-request-start` | proxies in front of a queue | arrival time of the request; see [`RequestStart`] |
//!
//! By default a layer ignores these headers. It reads those that are passed to
//! [`MemoryLayerBuilder::trust_deadline`](crate::middleware::MemoryLayerBuilder::trust_deadline).
//! [`PropagateDeadlineLayer`](crate::client::PropagateDeadlineLayer) writes them. The parsers accept
//! any bytes, never panic and never allocate.

mod digits;
mod error;
mod kind;
mod request_start;

pub use self::error::{ParseDeadlineError, ParseDeadlineErrorKind};
pub use self::kind::DeadlineHeader;
pub use self::request_start::RequestStart;
