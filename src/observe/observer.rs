use crate::scope::ScopeReport;

/// Receives a [`ScopeReport`] for each request, once its scope has closed.
///
/// Implemented for closures that take a `&ScopeReport`. Add an observer with
/// [`MemoryLayerBuilder::observe`](crate::middleware::MemoryLayerBuilder::observe).
///
/// # Panics
///
/// An observer runs where the request ends, which is often inside a `Drop`. A panic in it is caught
/// and counted in [`Snapshot::observer_panics`](super::Snapshot::observer_panics). It affects neither
/// the request nor other observers. With `panic = "abort"` it ends the process.
///
/// # Examples
///
/// ```
/// use std::{convert::Infallible, sync::{Arc, Mutex}};
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, ScopeReport};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(Mutex::new(Vec::new()));
/// let layer = MemoryLayer::builder().observe({
///     let log = Arc::clone(&log);
///     move |report: &ScopeReport| log.lock().unwrap().push(report.to_string())
/// }).build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// assert!(log.lock().unwrap().is_empty(), "the body has not ended");
/// drop(response);
/// assert!(log.lock().unwrap()[0].starts_with("{unmatched}: completed after "));
/// # Ok(())
/// # }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Called once for each request, when its scope closes. Must not block.
    fn on_close(&self, report: &ScopeReport);
}

impl<F> Observer for F
where
    F: Fn(&ScopeReport) + Send + Sync + 'static,
{
    fn on_close(&self, report: &ScopeReport) {
        self(report);
    }
}
