//! Snapshots as metrics of `prometheus-client`.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{
    handle::MemoryHandle,
    prometheus_encode::{counter, family, gauge},
    prometheus_limit::limits,
    snapshot::{RouteSnapshot, Snapshot},
    summary::Summary,
};

/// Bounds of the buckets that are exported, as powers of two, which are exact: every other one.
const BYTES: std::ops::RangeInclusive<u32> = 6..=34;
const COUNTS: std::ops::RangeInclusive<u32> = 0..=20;
/// In nanoseconds: from 65 us to 69 s.
const TIMES: std::ops::RangeInclusive<u32> = 16..=36;

/// The statistics of a layer as metrics, for a registry of `prometheus-client`.
///
/// Made by [`MemoryHandle::collector`]. Each scrape takes a snapshot.
#[derive(Debug, Clone)]
pub struct MemoryCollector(MemoryHandle);

impl MemoryHandle {
    /// Returns a collector of the layer's statistics, for a `prometheus_client::registry::Registry`.
    ///
    /// | metric | type | labels |
    /// |---|---|---|
    /// | `tower_memory_requests_total` | counter | `method`, `route`, `outcome` |
    /// | `tower_memory_responses_total` | counter | `method`, `route`, `status_class` (`2xx`, or `none`) |
    /// | `tower_memory_requests_in_flight` | gauge | `method`, `route` |
    /// | `tower_memory_request_allocated_bytes`, `.._request_allocations`, `.._request_peak_bytes`, `.._request_arena_bytes` | histogram | `method`, `route` |
    /// | `tower_memory_request_head_seconds`, `.._request_duration_seconds` | histogram | `method`, `route` |
    /// | `tower_memory_request_arenas_total` | counter | `method`, `route`, `result`: `hit`, `miss` |
    /// | `tower_memory_unreleased_bytes` | gauge | `method`, `route` |
    /// | `tower_memory_tasks` | gauge | `kind`: `bound`, `detached` |
    /// | `tower_memory_pool_bytes` | gauge | `state`: `waiting`, `arenas`, `buffers` (in use) |
    /// | `tower_memory_pool_rents_total` | counter | `kind`: `arena`, `buffer`; `result`: `hit`, `miss` |
    /// | `tower_memory_dropped_reports_total` | counter | |
    /// | `tower_memory_held_after_close_bytes` | gauge | `method`, `route` |
    /// | `tower_memory_limit_bytes` | gauge | `kind`: `limit`, `used`, `held`, `base`, `reserved` |
    /// | `tower_memory_limit_pressure_ratio` | gauge | |
    /// | `tower_memory_limit_stage_seconds_total` | counter | `stage` |
    /// | `tower_memory_limit_admitted_total`, `.._cancelled_total`, `.._failed_readings_total`, `.._reclaims_total` | counter | |
    /// | `tower_memory_limit_refused_total` | counter | `by` |
    /// | `tower_memory_limit_would_total` | counter | `action`: `refuse`, `cancel`, `exceed` |
    ///
    /// No label comes from a client: methods are those that are [known](crate::ScopeReport::method), and routes at
    /// most [`max_routes`](crate::middleware::MemoryLayerBuilder::max_routes). The bounds of histograms are
    /// powers of four and therefore exact, those of times in nanoseconds. A figure that is not known is
    /// absent. The metrics of the limit are there if the layer has one.
    ///
    /// # Examples
    ///
    /// ```
    /// use prometheus_client::{encoding::text::encode, registry::Registry};
    /// use tower_memory::MemoryLayer;
    ///
    /// let layer = MemoryLayer::new();
    /// let mut registry = Registry::default();
    /// registry.register_collector(Box::new(layer.handle().collector()));
    ///
    /// let mut text = String::new();
    /// encode(&mut text, &registry)?;
    /// assert!(text.contains("tower_memory_tasks{kind=\"bound\"} 0\n"));
    /// # Ok::<(), std::fmt::Error>(())
    /// ```
    #[must_use]
    pub fn collector(&self) -> MemoryCollector {
        MemoryCollector(self.clone())
    }
}

impl Collector for MemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.0.snapshot();
        requests(&mut encoder, &snapshot)?;
        distributions(&mut encoder, &snapshot)?;
        process(&mut encoder, &snapshot)?;
        match &snapshot.limit {
            Some(limit) => limits(&mut encoder, limit, self.0.pressure()),
            None => Ok(()),
        }
    }
}

fn labels(row: &RouteSnapshot) -> [(&'static str, &str); 2] {
    [("method", row.method), ("route", row.route.as_str())]
}

fn requests(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let routes = &snapshot.routes;
    let help = "Requests that have ended, by outcome";
    let mut metric = family(
        encoder,
        "tower_memory_requests",
        help,
        None,
        MetricType::Counter,
    )?;
    for row in routes {
        for (outcome, requests) in row.outcomes.iter() {
            let [method, route] = labels(row);
            let labels = [method, route, ("outcome", outcome.as_str())];
            counter(&mut metric, &labels, requests)?;
        }
    }
    let help = "Requests that have ended, by the class of their status";
    let mut metric = family(
        encoder,
        "tower_memory_responses",
        help,
        None,
        MetricType::Counter,
    )?;
    for row in routes {
        let classes = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        for (class, requests) in classes.into_iter().zip(row.statuses) {
            if requests > 0 {
                let [method, route] = labels(row);
                counter(
                    &mut metric,
                    &[method, route, ("status_class", class)],
                    requests,
                )?;
            }
        }
    }
    let help = "Requests that have used an arena, from the pool or new";
    let mut metric = family(
        encoder,
        "tower_memory_request_arenas",
        help,
        None,
        MetricType::Counter,
    )?;
    for row in routes
        .iter()
        .filter(|row| row.arena_hits + row.arena_misses > 0)
    {
        let [method, route] = labels(row);
        for (result, arenas) in [("hit", row.arena_hits), ("miss", row.arena_misses)] {
            counter(&mut metric, &[method, route, ("result", result)], arenas)?;
        }
    }
    let help = "Requests whose scope is open";
    let mut metric = family(
        encoder,
        "tower_memory_requests_in_flight",
        help,
        None,
        MetricType::Gauge,
    )?;
    for row in routes {
        gauge(&mut metric, &labels(row), row.in_flight)?;
    }
    let help = "Frozen buffers that were handed out and are not released";
    let unit = Some(Unit::Bytes);
    let mut metric = family(
        encoder,
        "tower_memory_unreleased",
        help,
        unit.as_ref(),
        MetricType::Gauge,
    )?;
    for row in routes {
        if let Some(bytes) = row.unreleased_bytes {
            gauge(&mut metric, &labels(row), bytes)?;
        }
    }
    let help = "Large blocks that closed requests have allocated and that are not freed";
    let mut metric = family(
        encoder,
        "tower_memory_held_after_close",
        help,
        unit.as_ref(),
        MetricType::Gauge,
    )?;
    for row in routes {
        if let Some(bytes) = row.held_after_close {
            metric.encode_family(&labels(row))?.encode_gauge(&bytes)?;
        }
    }
    Ok(())
}

/// A distribution of a row: name, help, unit, and the powers of two that are bounds.
type Distribution = (
    &'static str,
    &'static str,
    Option<Unit>,
    std::ops::RangeInclusive<u32>,
    fn(&RouteSnapshot) -> Option<Summary>,
);

fn distributions(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let all: [Distribution; 6] = [
        (
            "tower_memory_request_allocated",
            "Heap bytes allocated per request",
            Some(Unit::Bytes),
            BYTES,
            |row| row.bytes.clone(),
        ),
        (
            "tower_memory_request_allocations",
            "Heap allocations per request",
            None,
            COUNTS,
            |row| row.allocations.clone(),
        ),
        (
            "tower_memory_request_peak",
            "Highest number of heap bytes held at a time by a request",
            Some(Unit::Bytes),
            BYTES,
            |row| row.peak_bytes.clone(),
        ),
        (
            "tower_memory_request_arena",
            "Bytes taken from the arena per request",
            Some(Unit::Bytes),
            BYTES,
            |row| row.arena_bytes.clone(),
        ),
        (
            "tower_memory_request_head",
            "Time to the response head",
            Some(Unit::Seconds),
            TIMES,
            |row| Some(row.time_to_head.as_ref()?.nanos()),
        ),
        (
            "tower_memory_request_duration",
            "Time to the close of the request, tasks included",
            Some(Unit::Seconds),
            TIMES,
            |row| Some(row.total_time.as_ref()?.nanos()),
        ),
    ];
    for (name, help, unit, powers, of) in all {
        let mut metric = family(encoder, name, help, unit.as_ref(), MetricType::Histogram)?;
        let scale = if matches!(unit, Some(Unit::Seconds)) {
            1e-9
        } else {
            1.0
        };
        for row in &snapshot.routes {
            let Some(summary) = of(row) else {
                continue;
            };
            let buckets = buckets(&summary, powers.clone(), scale);
            let labels = labels(row);
            metric
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    summary.total as f64 * scale,
                    summary.count,
                    &buckets,
                    None,
                )?;
        }
    }
    Ok(())
}

/// Bounds, and the requests in each bucket; the last bound is infinite.
fn buckets(
    summary: &Summary,
    powers: std::ops::RangeInclusive<u32>,
    scale: f64,
) -> Vec<(f64, u64)> {
    let at_most = |bound: u64| {
        let above = summary.buckets().filter(|bucket| bucket.0 > bound);
        summary.count - above.map(|bucket| bucket.1).sum::<u64>().min(summary.count)
    };
    let mut before = 0;
    let bounds = powers.step_by(2).map(|power| 1_u64 << power);
    let mut buckets: Vec<_> = bounds
        .map(|bound| {
            let until = at_most(bound);
            let count = until - std::mem::replace(&mut before, until);
            (bound as f64 * scale, count)
        })
        .collect();
    buckets.push((f64::INFINITY, summary.count - before));
    buckets
}

/// What does not belong to a route.
fn process(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Tasks of requests that are alive";
    let mut metric = family(encoder, "tower_memory_tasks", help, None, MetricType::Gauge)?;
    gauge(&mut metric, &[("kind", "bound")], snapshot.tasks)?;
    gauge(&mut metric, &[("kind", "detached")], snapshot.detached)?;
    let pool = &snapshot.pool;
    let (help, unit) = ("Memory of the pool", Some(Unit::Bytes));
    let mut metric = family(
        encoder,
        "tower_memory_pool",
        help,
        unit.as_ref(),
        MetricType::Gauge,
    )?;
    gauge(&mut metric, &[("state", "waiting")], pool.pooled_bytes)?;
    gauge(&mut metric, &[("state", "arenas")], pool.rented_bytes)?;
    gauge(&mut metric, &[("state", "buffers")], pool.buffer_bytes)?;
    let help = "Arenas and blocks of buffers that were rented, from the pool or new";
    let mut metric = family(
        encoder,
        "tower_memory_pool_rents",
        help,
        None,
        MetricType::Counter,
    )?;
    for (kind, result, rents) in [
        ("arena", "hit", pool.hits),
        ("arena", "miss", pool.misses),
        ("buffer", "hit", pool.buffer_hits),
        ("buffer", "miss", pool.buffer_misses),
    ] {
        counter(&mut metric, &[("kind", kind), ("result", result)], rents)?;
    }
    let help = "Reports that observers did not see";
    let mut metric = family(
        encoder,
        "tower_memory_dropped_reports",
        help,
        None,
        MetricType::Counter,
    )?;
    counter::<0>(&mut metric, &[], snapshot.dropped_reports)
}
