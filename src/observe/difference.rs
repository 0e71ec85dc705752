use std::collections::HashMap;

use super::snapshot::{RouteSnapshot, Snapshot};

impl Snapshot {
    /// Returns what has happened since an `earlier` snapshot of the same layer: counts, sums and
    /// distributions are those of the requests in between.
    ///
    /// What is alive or learned *now* stays as it is in `self`: requests in flight, tasks, tokens, arenas and
    /// buffers in use, learned sizes. Routes without a request in between, or in flight, are left out. A
    /// maximum is at most 6 % too high, and exact if there was none as high before.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// use tower_memory::MemoryLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = MemoryLayer::new();
    /// let handle = layer.handle();
    /// let mut service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// drop(service.ready().await?.call(Request::new(())).await?);
    /// let earlier = handle.snapshot();
    /// for _ in 0..3 {
    ///     drop(service.ready().await?.call(Request::new(())).await?);
    /// }
    ///
    /// let between = handle.snapshot().since(&earlier);
    /// assert_eq!(between.routes[0].requests, 3);
    /// assert!(handle.snapshot().since(&handle.snapshot()).routes.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let known = |route: &'_ RouteSnapshot| (route.method, route.route.clone());
        let rows: HashMap<_, _> = earlier.routes.iter().map(|row| (known(row), row)).collect();
        let routes = self.routes.iter().map(|row| {
            let row = row.clone();
            match rows.get(&known(&row)) {
                Some(earlier) => row.since(earlier),
                None => row,
            }
        });
        Self {
            routes: routes
                .filter(|row| row.requests > 0 || row.in_flight > 0)
                .collect(),
            pool: self.pool.since(&earlier.pool),
            unparsable_deadlines: less(self.unparsable_deadlines, earlier.unparsable_deadlines),
            implausible_request_starts: less(
                self.implausible_request_starts,
                earlier.implausible_request_starts,
            ),
            observer_panics: less(self.observer_panics, earlier.observer_panics),
            dropped_reports: less(self.dropped_reports, earlier.dropped_reports),
            housekeeping_panics: less(self.housekeeping_panics, earlier.housekeeping_panics),
            limit: self.limit.clone(),
            ..*self
        }
    }
}

impl RouteSnapshot {
    fn since(self, earlier: &Self) -> Self {
        Self {
            requests: less(self.requests, earlier.requests),
            outcomes: self.outcomes.since(&earlier.outcomes),
            statuses: std::array::from_fn(|class| {
                less(self.statuses[class], earlier.statuses[class])
            }),
            bytes: self.bytes.and_then(|of| of.since(earlier.bytes.as_ref())),
            peak_bytes: self
                .peak_bytes
                .and_then(|of| of.since(earlier.peak_bytes.as_ref())),
            allocations: self
                .allocations
                .and_then(|of| of.since(earlier.allocations.as_ref())),
            arena_bytes: self
                .arena_bytes
                .and_then(|of| of.since(earlier.arena_bytes.as_ref())),
            arena_hits: less(self.arena_hits, earlier.arena_hits),
            arena_misses: less(self.arena_misses, earlier.arena_misses),
            over_limit: less(self.over_limit, earlier.over_limit),
            time_to_head: self
                .time_to_head
                .and_then(|of| of.since(earlier.time_to_head.as_ref())),
            time_to_end: self.time_to_end.saturating_sub(earlier.time_to_end),
            total_time: self
                .total_time
                .and_then(|of| of.since(earlier.total_time.as_ref())),
            would_refuse: less(self.would_refuse, earlier.would_refuse),
            would_cancel: less(self.would_cancel, earlier.would_cancel),
            would_exceed: less(self.would_exceed, earlier.would_exceed),
            ..self
        }
    }
}

/// Zero if the snapshots are in the wrong order: there is no error for a mistake that shows at once.
fn less(now: u64, earlier: u64) -> u64 {
    now.saturating_sub(earlier)
}
