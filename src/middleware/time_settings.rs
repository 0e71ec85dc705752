use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::{builder::MemoryLayerBuilder, deadline_context::DeadlineContext};
use crate::{sync::Arc, wire::deadline_header::DeadlineHeader};

/// The time limits of a layer's requests, and their answers.
impl MemoryLayerBuilder {
    /// Ends requests that have no response head after `timeout` (no limit by default).
    ///
    /// The token is cancelled, the handler is dropped, and the client gets `504` with a problem
    /// description (see [`deadline_response`](Self::deadline_response)). A handler that is ready at
    /// its first poll is always in time. `Duration::MAX` is no limit.
    ///
    /// The limit covers the time to the head. Bodies have [limits](Self::body_timeout) of their own,
    /// upgraded connections have none. For other limits on some routes see [`RoutePolicy`](crate::RoutePolicy).
    ///
    /// The [housekeeping](crate::housekeeping) watches the time, so no runtime needs its timers for it.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.timeout(timeout);
        self
    }

    /// Ends responses whose body is not complete `timeout` after their head.
    ///
    /// The body is dropped, and the server aborts the response. A gRPC client gets the status
    /// `DEADLINE_EXCEEDED`. This needs no poll by the server: a client that reads nothing keeps no body, see
    /// [`ResponseBody`](super::ResponseBody). Upgraded connections and the layer's own responses have no
    /// limit. A body with limits takes two allocations.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::MemoryLayer;
    ///
    /// let layer = MemoryLayer::builder()
    ///     .timeout(Duration::from_secs(5)) // until the head
    ///     .body_timeout(Duration::from_secs(60)) // from there to the end
    ///     .body_idle_timeout(Duration::from_secs(10)) // between two parts
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub const fn body_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.body_timeout(timeout);
        self
    }

    /// Ends responses of whose body the server has taken no part for `timeout`.
    ///
    /// Otherwise as [`body_timeout`](Self::body_timeout). A part is a frame of the body. The time counts from
    /// the head or the last part, whether the body is silent or the server asks for nothing because the client
    /// does not read. So a client must be able to receive a part within that time.
    ///
    /// With a [`process_limit`](Self::process_limit) the time is less while memory is tight: down to a quarter, as
    /// [`Pressure::level`](crate::limit::Pressure::level) rises to 1. That also holds for bodies that are open.
    pub const fn body_idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.body_idle_timeout(timeout);
        self
    }

    /// Ends requests for whose next part of the request's body the handler has waited for `timeout`.
    ///
    /// The time counts from the handler's first wait after the last part. It needs a
    /// [`RequestBodyLayer`](super::RequestBodyLayer). The handler is dropped and the client gets `408`;
    /// if there is a response head already, the response's body is cut off as by
    /// [`body_timeout`](Self::body_timeout). So an upload may take as long as it
    /// needs, as long as it goes on:
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full, StreamBody};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, middleware::{RequestBody, RequestBodyLayer}};
    ///
    /// type Upload = StreamBody<futures_util::stream::Pending<Result<http_body::Frame<Bytes>, Infallible>>>;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder().request_body_idle_timeout(Duration::from_secs(10)).build()?;
    /// let service = ServiceBuilder::new().layer(layer).layer(RequestBodyLayer::new()).service(service_fn(
    ///     |request: Request<RequestBody<Upload>>| async move {
    ///         let body = request.into_body().collect().await.expect("nothing fails here").to_bytes();
    ///         Ok::<_, Infallible>(Response::new(Full::new(body)))
    ///     },
    /// ));
    /// let silent = StreamBody::new(futures_util::stream::pending());
    /// let response = service.oneshot(Request::post("/").body(silent)?).await?;
    /// assert_eq!(response.status(), 408);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn request_body_idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits = self.limits.request_body_idle_timeout(timeout);
        self
    }

    /// Lets a header of the request make its deadline shorter.
    ///
    /// Trust a header only if every client may choose how long its requests run, or if a proxy in front
    /// of the service sets or removes the header. The earliest deadline of trusted headers, layer and
    /// policies applies, and the [reason](crate::cancel::CancelReason::deadline_source) records its
    /// source. If no time is left, the handler does not run. A value that cannot be parsed is ignored,
    /// and counted in
    /// [`Snapshot::unparsable_deadlines`](crate::observe::Snapshot::unparsable_deadlines).
    ///
    /// A gRPC deadline is for the whole call, so it also limits the response's body.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_memory::{MemoryLayer, deadline_header::DeadlineHeader};
    ///
    /// let layer = MemoryLayer::builder()
    ///     .timeout(Duration::from_secs(5)) // at most
    ///     .trust_deadline(DeadlineHeader::GrpcTimeout)
    ///     .deadline_margin(Duration::from_millis(10))
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub fn trust_deadline(mut self, header: DeadlineHeader) -> Self {
        self.trust.get_or_insert_default().add(header);
        self
    }

    /// Subtracts `margin` from deadlines in trusted headers (zero by default), so that the response
    /// arrives before the client's own deadline.
    ///
    /// Clients, and tonic's server around all layers, end a call at that deadline without reading this
    /// response.
    pub fn deadline_margin(mut self, margin: Duration) -> Self {
        self.trust.get_or_insert_default().margin = margin;
        self
    }

    /// Trusts `x-request-start`, the time at which a proxy received the request, so that time in a
    /// queue counts towards the deadlines in trusted headers and the timeouts of this layer and of
    /// policies.
    ///
    /// The value comes from another machine's clock: see
    /// [`deadline_header`](crate::deadline_header#x-request-start).
    pub fn trust_request_start(mut self) -> Self {
        self.trust.get_or_insert_default().request_start = true;
        self
    }

    /// Sets the longest time in a queue that `x-request-start` is believed (60 s by default).
    ///
    /// A longer one means that a clock is wrong. Such a value is ignored, and counted in
    /// [`Snapshot::implausible_request_starts`](crate::observe::Snapshot::implausible_request_starts).
    /// Set it to the time after which the proxy itself gives up.
    pub fn max_queue_time(mut self, max: Duration) -> Self {
        self.trust.get_or_insert_default().max_queue_time = max;
        self
    }

    /// Sets the response to requests whose deadline has passed.
    ///
    /// By default it is `504` with a problem description, or `408` if the request's body was not
    /// complete (which needs a [`RequestBodyLayer`](super::RequestBodyLayer)). gRPC calls always get
    /// HTTP status 200 and `grpc-status` 4.
    ///
    /// The function must not block.
    ///
    /// # Panics
    ///
    /// A panic in it is a panic of the request: it reaches the server, as the handler's would.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use http::{Request, Response, StatusCode};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, middleware::DeadlineContext};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder()
    ///     .timeout(Duration::from_millis(10))
    ///     .deadline_response(|expired: &DeadlineContext<'_>| {
    ///         if expired.is_body_missing() {
    ///             expired.response() // 408, as it would be
    ///         } else {
    ///             expired.problem(StatusCode::SERVICE_UNAVAILABLE)
    ///         }
    ///     })
    ///     .build()?;
    /// let service = layer.layer(service_fn(|_: Request<()>| {
    ///     std::future::pending::<Result<Response<Empty<bytes::Bytes>>, Infallible>>()
    /// }));
    /// assert_eq!(service.oneshot(Request::new(())).await?.status(), 503);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deadline_response(
        mut self,
        response: impl Fn(&DeadlineContext<'_>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.responses.deadline = Some(Arc::new(response));
        self
    }

    /// Adds `retry-after` to the default deadline response, in whole seconds
    /// ([RFC 9110, 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)); not by default.
    ///
    /// It is left out of a `408`, whose client may repeat the request at once, after a deadline that
    /// the request itself set, and in gRPC.
    pub const fn retry_after(mut self, delay: Duration) -> Self {
        self.responses.retry_after = Some(delay);
        self
    }
}
