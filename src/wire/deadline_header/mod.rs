//! Headers that carry the deadline or the start time of a request.
//!
//! | header | sent by | value |
//! |---|---|---|
//! | `grpc-timeout` | gRPC clients | at most 8 digits and one of `H M S m u n` ([gRPC over HTTP/2, "Requests"](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests)) |
//! | `x-envoy-expected-rq-timeout-ms` | Envoy, to the service behind it | milliseconds ([Envoy, "HTTP header manipulation" of the router filter](https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter)) |
//! | `x-request-timeout-ms` | any client, by agreement | milliseconds |
//! | `x-request-start` | proxies in front of a queue | arrival time of the request, see below |
//!
//! By default a layer ignores these headers. It reads those that are passed to
//! [`MemoryLayerBuilder::trust_deadline`](crate::middleware::MemoryLayerBuilder::trust_deadline).
//! [`PropagateDeadlineLayer`](crate::client::PropagateDeadlineLayer) writes them. The parsers accept
//! any bytes, never panic and never allocate. A value that does not follow the grammar of its header
//! is ignored and counted in
//! [`Snapshot::unparsable_deadlines`](crate::observe::Snapshot::unparsable_deadlines).
//!
//! # `x-request-start`
//!
//! This header has no specification. Proxies write the time since the Unix epoch in seconds with a
//! fraction (nginx's `$msec`), milliseconds (Heroku), microseconds (Apache's `%t`) or nanoseconds,
//! with or without a leading `t=`. The unit follows from the size of the number: it is the one that
//! results in a year from 2001 to 5138 (2554 for nanoseconds). The ranges do not overlap.
//!
//! The clocks of proxy and service must be synchronized. If the proxy's clock is behind, the
//! difference counts as queueing time, up to
//! [`max_queue_time`](crate::middleware::MemoryLayerBuilder::max_queue_time) (60 s by default). A start
//! in the future counts as now. A value beyond that limit, or more than 1 s in the future, is ignored and
//! counted in
//! [`Snapshot::implausible_request_starts`](crate::observe::Snapshot::implausible_request_starts), and
//! with the `tracing` feature the first one is a warning. A `504` to a request that had expired on
//! arrival says how long it had been in a queue.

mod digits;
mod kind;
mod request_start;

pub use self::kind::DeadlineHeader;
#[doc(hidden)]
pub use self::request_start::RequestStart;
