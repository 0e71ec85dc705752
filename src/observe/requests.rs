//! Single requests: the open ones, and those that are remembered.

use super::{extremes::PastRequest, handle::MemoryHandle};
use crate::{route::RouteLabel, scope::LiveRequest};

/// The most remarkable requests of one method of one route.
///
/// Returned by [`MemoryHandle::extremes`].
///
/// # Examples
///
/// See [`MemoryHandle::extremes`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteExtremes {
    /// The method, as in [`ScopeReport::method`](crate::ScopeReport::method).
    pub method: &'static str,
    /// The route.
    pub route: RouteLabel,
    /// The requests that allocated the most heap bytes or, where these are not known, took the most from
    /// their arena; largest first.
    pub largest: Vec<PastRequest>,
    /// The requests that were open for the longest time, slowest first.
    pub slowest: Vec<PastRequest>,
}

impl MemoryHandle {
    /// Returns the open requests, oldest first; `None` unless the layer
    /// [lists requests](crate::middleware::MemoryLayerBuilder::list_requests).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::MemoryLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder().list_requests().build()?;
    /// let handle = layer.handle();
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// let unsent = service.oneshot(Request::new(())).await?;
    /// let open = handle.requests().expect("requests are listed");
    /// assert_eq!((open.len(), open[0].method, open[0].status), (1, "GET", Some(200)));
    /// drop(unsent);
    /// assert_eq!(handle.requests(), Some(vec![]));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn requests(&self) -> Option<Vec<LiveRequest>> {
        let list = self.layer.open_list.as_ref()?;
        Some(list.requests())
    }

    /// Returns the 8 largest and the 8 slowest requests of each method and route in the last 5 to 10 minutes,
    /// those before the last 5 minutes as far as they are of the same interval. `None` unless the layer
    /// [lists requests](crate::middleware::MemoryLayerBuilder::list_requests).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::builder().list_requests().build()?;
    /// let mut service = layer.layer(service_fn(|request: Request<usize>| async move {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
    ///     scope.arena().alloc_slice_copy(&vec![0_u8; *request.body()]);
    ///     scope.annotate("rows", request.body());
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// for rows in [10, 3000, 20] {
    ///     drop(service.ready().await?.call(Request::new(rows)).await?);
    /// }
    ///
    /// let extremes = layer.handle().extremes().expect("requests are listed");
    /// let largest = &extremes[0].largest[0].report;
    /// assert_eq!(largest.annotations, [("rows", "3000".into())]);
    /// assert!(largest.id.is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn extremes(&self) -> Option<Vec<RouteExtremes>> {
        let extremes = self.recorder.extremes.as_ref()?;
        let rows = extremes.read().into_iter();
        let named = rows.map(|(key, [largest, slowest])| RouteExtremes {
            method: key.method.as_str(),
            route: self.layer.routes.route(key.route).label.clone(),
            largest,
            slowest,
        });
        Some(named.collect())
    }
}
