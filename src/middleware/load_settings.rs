use bytes::Bytes;
use http::{Response, request::Parts};

use super::{builder::MemoryLayerBuilder, expose::Expose, limit_context::LimitContext};
use crate::{
    limit::{Priority, ProcessLimit},
    sync::Arc,
};

/// Settings about load that is refused.
impl MemoryLayerBuilder {
    /// Admits requests by a limit for the memory of the process (none by default).
    ///
    /// See [`ProcessLimit`] for what is admitted. The handler of a refused request does not run: it gets `503`
    /// with `retry-after` and a problem description, in gRPC the status `UNAVAILABLE`, and its outcome is
    /// [`Outcome::Shed`](crate::Outcome::Shed). Requests that an open request of the layer sends are
    /// admitted with it. A request that holds the most when the process is at its limit is cancelled, with
    /// [`Outcome::MemoryPressure`](crate::Outcome::MemoryPressure), and answered in the same way; if there is
    /// a response head already, its body fails.
    ///
    /// Layers that share a process are given the same limit. Apply the layer inside of a router, as
    /// `axum::Router::layer` does, so that the route of a request is known when it is admitted. Around a
    /// router, all requests are taken to hold the mean of all until their route is known.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, Outcome, limit::ProcessLimit};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // A process that uses 99 of 100 MiB.
    /// let limit = ProcessLimit::builder().bytes(100 << 20).source(|| Some(99 << 20)).build()?;
    /// let layer = MemoryLayer::builder().process_limit(&limit).build()?;
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// let response = service.oneshot(Request::new(())).await?;
    /// assert_eq!(response.status(), 503);
    /// assert!(response.headers().contains_key("retry-after"));
    /// assert_eq!(layer.handle().snapshot().routes[0].outcomes.get(Outcome::Shed), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn process_limit(mut self, limit: &ProcessLimit) -> Self {
        self.load.process = Some(limit.clone());
        self
    }

    /// Chooses the priority of each request by its head.
    ///
    /// By default it is that of [`RoutePolicy::priority`](crate::RoutePolicy::priority), or else
    /// [`Priority::Normal`]. Health checks and payments are what [`Priority::Critical`] is for. `f` must not
    /// block. If it panics, the priority is normal.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{MemoryLayer, limit::{Priority, ProcessLimit}};
    ///
    /// let layer = MemoryLayer::builder()
    ///     .process_limit(&ProcessLimit::detect()?)
    ///     .priority_from(|request| match request.uri.path() {
    ///         "/livez" | "/pay" => Priority::Critical,
    ///         _ => Priority::Normal,
    ///     })
    ///     .build()?;
    /// # drop(layer);
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub fn priority_from(mut self, f: impl Fn(&Parts) -> Priority + Send + Sync + 'static) -> Self {
        self.load.priority = Some(Arc::new(f));
        self
    }

    /// Sets the response to requests that are refused or cancelled because of memory.
    ///
    /// By default it is [`LimitContext::response`]. gRPC calls always get HTTP status 200 and a
    /// `grpc-status`. The function must not block. If it panics, the default response is sent: when memory is
    /// tight, no request should cost more than it has to.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_memory::{MemoryLayer, limit::ProcessLimit, middleware::LimitContext};
    ///
    /// let layer = MemoryLayer::builder()
    ///     .process_limit(&ProcessLimit::detect()?)
    ///     .limit_response(|exceeded: &LimitContext<'_>| exceeded.problem(StatusCode::TOO_MANY_REQUESTS))
    ///     .build()?;
    /// # drop(layer);
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub fn limit_response(
        mut self,
        f: impl Fn(&LimitContext<'_>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.responses.limit = Some(Arc::new(f));
        self
    }

    /// Tells these clients how tight memory is, in the response header `endpoint-load-metrics` (none by default).
    ///
    /// Meant for load balancers that speak ORCA, such as Envoy's and gRPC's weighted round robin: they send less to
    /// an instance whose utilization is higher. It has
    /// [`process_limit`](Self::process_limit)'s bytes in use as a share of the limit (`mem_utilization`,
    /// `application_utilization`), and [`Pressure::level`](crate::limit::Pressure::level)
    /// (`named_metrics.memory_pressure`). Refusals have it, too. The proxy should remove it from what it sends to
    /// clients: it tells what others do.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{Expose, MemoryLayer, header::ENDPOINT_LOAD_METRICS, limit::ProcessLimit};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limit = ProcessLimit::builder().bytes(100 << 20).source(|| Some(60 << 20)).build()?;
    /// let layer = MemoryLayer::builder()
    ///     .process_limit(&limit)
    ///     .report_load(Expose::when(|request| request.headers.contains_key("x-from-proxy")))
    ///     .build()?;
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// let asking = Request::get("/").header("x-from-proxy", "1").body(())?;
    /// assert_eq!(
    ///     service.oneshot(asking).await?.headers()[ENDPOINT_LOAD_METRICS],
    ///     "TEXT application_utilization=0.6000,mem_utilization=0.6000,named_metrics.memory_pressure=0.00",
    /// );
    /// # Ok(())
    /// # }
    /// ```
    pub fn report_load(mut self, clients: Expose) -> Self {
        self.load.report = clients;
        self
    }

    /// Refuses requests with `503` while the buffers of the pool keep `bytes` or more (no limit by
    /// default).
    ///
    /// These are the bytes of [`ArenaPool::buffer_bytes`](crate::ArenaPool::buffer_bytes): of buffers that
    /// handlers write, and of frozen ones that the server has not released. A server takes a response from
    /// the layer before its client reads it, and keeps it until then. So clients that read nothing can make it
    /// keep a response for each request that they send, and no timeout of the layer can take those back.
    /// [`RouteSnapshot::unreleased_bytes`](crate::observe::RouteSnapshot::unreleased_bytes) tells whose they
    /// are.
    ///
    /// The handler of a refused request does not run. Its response has `retry-after: 1` and a problem
    /// description, in gRPC it is the status `UNAVAILABLE`. The outcome is
    /// [`Outcome::Shed`](crate::Outcome::Shed). Clients that see the figures ([`expose`](Self::expose)) also
    /// get the members `limit` and `used`, in bytes. Requests that an open request of the layer sends are
    /// served.
    ///
    /// Choose more than all clients together leave unread in good times, and less than the process may take.
    /// Memory from elsewhere, such as a `Vec` as a body, does not count. Layers with one pool share the
    /// figure. Probes are refused too: serve them without the layer.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder().max_unreleased_bytes(1000).build()?;
    /// let service = layer.layer(service_fn(|request: Request<()>| async move {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
    ///     let mut body = scope.arena().buf();
    ///     body.extend_from_slice(&[7; 1000]);
    ///     Ok::<_, Infallible>(Response::new(Full::new(body.freeze())))
    /// }));
    /// let first = service.clone().oneshot(Request::new(())).await?;
    /// let kept = first.into_body().collect().await.expect("nothing fails here");
    /// assert_eq!(service.clone().oneshot(Request::new(())).await?.status(), 503);
    /// drop(kept);
    /// assert_eq!(service.oneshot(Request::new(())).await?.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn max_unreleased_bytes(mut self, bytes: usize) -> Self {
        self.load.max_unreleased = Some(bytes);
        self
    }
}
