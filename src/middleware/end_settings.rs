use std::time::Duration;

use http::request::Parts;

use super::builder::MemoryLayerBuilder;
use crate::sync::Arc;

/// Settings about the ends of requests.
impl MemoryLayerBuilder {
    /// Serves requests that arrive during a [shutdown](crate::MemoryHandle::shutdown) if `f` returns
    /// `true` for them, such as liveness probes and the scrapes of metrics (none by default).
    ///
    /// The shutdown neither cancels these requests nor waits for them. `f` is called during a shutdown
    /// only. It must not block.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::MemoryLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder()
    ///     .serve_while_draining(|request| request.uri.path() == "/livez")
    ///     .build()?;
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// assert!(layer.handle().shutdown(Duration::from_secs(10)).await.is_clean());
    ///
    /// let probe = service.clone().oneshot(Request::get("/livez").body(())?).await?;
    /// assert_eq!(probe.status(), 200);
    /// let other = service.oneshot(Request::get("/items").body(())?).await?;
    /// assert_eq!(other.status(), 503);
    /// assert_eq!(other.headers()["retry-after"], "1");
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_while_draining(
        mut self,
        f: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.draining.serve = Some(Arc::new(f));
        self
    }

    /// Sets the `retry-after` of the `503` that requests get during a shutdown, in whole seconds (1 s by
    /// default). gRPC has no such header.
    pub const fn shutdown_retry_after(mut self, delay: Duration) -> Self {
        self.draining.retry_after = delay;
        self
    }

    /// Sets how long a [hold](crate::RequestScope::hold) may wait to be taken up after the response of an upgrade
    /// (10 s by default; `Duration::MAX` is no limit).
    ///
    /// An outer layer may replace that response, or the connection may fail before it is upgraded. Then the
    /// scope ends with [`Outcome::NotUpgraded`](crate::Outcome::NotUpgraded).
    pub const fn hold_timeout(mut self, timeout: Duration) -> Self {
        self.hold_timeout = timeout;
        self
    }
}
