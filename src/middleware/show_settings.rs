use super::builder::MemoryLayerBuilder;

/// Settings about what is shown of single requests.
impl MemoryLayerBuilder {
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
