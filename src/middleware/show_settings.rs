use super::builder::MemoryLayerBuilder;

/// Settings about what is shown of single requests.
impl MemoryLayerBuilder {
    /// Records one `tracing` event for each request when it closes, with its figures, at the levels of `log`. Not
    /// by default.
    ///
    /// The event has the target `tower_memory::request` and the request's span as its parent: the one that the
    /// layer was called in, such as that of `tower_http`'s `TraceLayer` around it. Figures are also recorded in the
    /// fields that this span declares. A figure that is not known is left out.
    ///
    /// | field | in spans |
    /// |---|---|
    /// | `http.request.method` (known ones, or `other`), `http.route`, `http.response.status_code` | no |
    /// | `memory.request_id`, if [requests are listed](Self::list_requests) | yes |
    /// | `memory.outcome`, as [`Outcome::as_str`](crate::Outcome::as_str) | yes |
    /// | `memory.allocated_bytes`, `memory.allocations`, `memory.peak_bytes`, `memory.arena_bytes`, `memory.tasks` | yes |
    /// | `memory.head_seconds`, `memory.duration_seconds` | yes |
    ///
    /// The event is recorded on the thread that closes the request. A panic of the subscriber is caught and counted
    /// in [`Snapshot::observer_panics`](crate::observe::Snapshot::observer_panics).
    ///
    /// # Examples
    ///
    /// See [`RequestLog`](crate::observe::RequestLog).
    #[cfg(feature = "tracing")]
    pub fn log_requests(mut self, log: crate::observe::RequestLog) -> Self {
        self.log = Some(log);
        self
    }

    /// Adds mean, median and 99th percentile of what closed requests of the same method and route allocated to
    /// the response headers, for the clients that [`expose`](Self::expose) selects. Not by default.
    ///
    /// They are at most 1 s old, and absent while none is known. The names are
    /// [`x-alloc-bytes-mean`](crate::header::X_ALLOC_BYTES_MEAN), `..-p50` and `..-p99`, in the
    /// [form](Self::header_format) of the other figures.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{Expose, MemoryLayer, header::HeaderFormat};
    ///
    /// let layer = MemoryLayer::builder()
    ///     .expose(Expose::when(|request| request.headers.contains_key("x-debug")))
    ///     .header_format(HeaderFormat::ServerTiming)
    ///     .expose_route_figures()
    ///     .expose_trailers()
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_memory::ConfigError>(())
    /// ```
    pub const fn expose_route_figures(mut self) -> Self {
        self.exposed.route_figures = true;
        self
    }

    /// Adds the final figures as trailers to streamed responses, for the clients that [`expose`](Self::expose)
    /// selects and that can read trailers. Not by default.
    ///
    /// Headers are sent before the body, so they cannot have what the body allocates. Trailers have the same
    /// names, and come after the body if its length is not known: with HTTP/2, and with HTTP/1.1 if the request
    /// has `TE: trailers`. The body's own trailers, such as those of gRPC, stay. gRPC-Web has no trailers of
    /// HTTP. What tasks allocate after the end of the body is not included.
    ///
    /// # Examples
    ///
    /// See [`expose_route_figures`](Self::expose_route_figures).
    pub const fn expose_trailers(mut self) -> Self {
        self.exposed.trailers = true;
        self
    }

    /// Lists the open requests, and remembers the largest and the slowest of each route, for
    /// [`MemoryHandle::requests`](crate::MemoryHandle::requests) and
    /// [`extremes`](crate::MemoryHandle::extremes). Not by default.
    ///
    /// Opening and closing a request then take one lock each, of a list that few threads share. The tables of
    /// the last 5 to 10 minutes take up to 32 reports for each method and route.
    ///
    /// # Examples
    ///
    /// See [`MemoryHandle::requests`](crate::MemoryHandle::requests).
    pub const fn list_requests(mut self) -> Self {
        self.lists_requests = true;
        self
    }
}
