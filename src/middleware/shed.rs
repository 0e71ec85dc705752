use bytes::Bytes;
use http::Response;

use super::{builder::MemoryLayerBuilder, config::Config, request_info::RequestInfo};
use crate::wire::overloaded;

/// Settings about load that is refused.
impl MemoryLayerBuilder {
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
        self.max_unreleased = Some(bytes);
        self
    }
}

impl Config {
    /// The answer to a new request while too much is not released.
    #[inline]
    pub(super) fn shed(&self, info: RequestInfo) -> Option<Response<Bytes>> {
        let limit = self.max_unreleased?;
        let used = self.unreleased();
        (used >= limit).then(|| {
            let figures = info.exposed.then_some((limit, used));
            overloaded(info.protocol, figures)
        })
    }

    /// Bytes that were handed out and are not released.
    fn unreleased(&self) -> usize {
        self.handle.layer.pool.buffer_bytes()
    }
}
