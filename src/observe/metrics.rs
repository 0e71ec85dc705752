//! Reports as metrics of the `metrics` facade.

use std::time::Duration;

use metrics::{
    Label, SharedString, Unit, counter, describe_counter, describe_histogram, histogram,
};

use crate::{
    scope::{ArenaSource, ScopeReport},
    sync::{Arc, OnceLock},
};

/// What is recorded of a request, under the names of
/// [`MemoryHandle::collector`](crate::MemoryHandle::collector).
const COUNTERS: [(&str, &str); 3] = [
    (
        "tower_memory_requests_total",
        "Requests that have ended, by outcome",
    ),
    (
        "tower_memory_responses_total",
        "Requests that have ended, by the class of their status",
    ),
    (
        "tower_memory_request_arenas_total",
        "Requests that have used an arena, from the pool or new",
    ),
];

const HISTOGRAMS: [(&str, Unit, &str); 6] = [
    (
        "tower_memory_request_allocated_bytes",
        Unit::Bytes,
        "Heap bytes allocated per request",
    ),
    (
        "tower_memory_request_allocations",
        Unit::Count,
        "Heap allocations per request",
    ),
    (
        "tower_memory_request_peak_bytes",
        Unit::Bytes,
        "Highest number of heap bytes held at a time by a request",
    ),
    (
        "tower_memory_request_arena_bytes",
        Unit::Bytes,
        "Bytes taken from the arena per request",
    ),
    (
        "tower_memory_request_head_seconds",
        Unit::Seconds,
        "Time to the response head",
    ),
    (
        "tower_memory_request_duration_seconds",
        Unit::Seconds,
        "Time to the close of the request, tasks included",
    ),
];

/// Returns an observer that records each request with the `metrics` facade, for
/// [`MemoryLayerBuilder::observe`](crate::middleware::MemoryLayerBuilder::observe).
///
/// | metric | type | labels |
/// |---|---|---|
/// | `tower_memory_requests_total` | counter | `method`, `route`, `outcome` |
/// | `tower_memory_responses_total` | counter | `method`, `route`, `status_class` (`2xx`, or `none`) |
/// | `tower_memory_request_arenas_total` | counter | `method`, `route`, `result`: `hit`, `miss` |
/// | `tower_memory_request_allocated_bytes`, `.._request_allocations`, `.._request_peak_bytes`, `.._request_arena_bytes` | histogram | `method`, `route` |
/// | `tower_memory_request_head_seconds`, `.._request_duration_seconds` | histogram | `method`, `route` |
///
/// No label comes from a client. A figure that is not known is not recorded. Reports that were
/// [dropped](crate::observe::Snapshot::dropped_reports) are missing; what is alive now is in the
/// [snapshot](crate::MemoryHandle::snapshot) only.
///
/// # Examples
///
/// ```
/// use tower_memory::{MemoryLayer, observe::metrics_observer};
///
/// let layer = MemoryLayer::builder().observe(metrics_observer()).build()?;
/// # let _ = layer;
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
pub fn metrics_observer() -> impl Fn(&ScopeReport) + Send + Sync + 'static {
    // With the first report, since a program may install its recorder after it has made the layer.
    let described = OnceLock::new();
    move |report: &ScopeReport| {
        described.get_or_init(describe);
        record(report);
    }
}

fn describe() {
    for (name, help) in COUNTERS {
        describe_counter!(name, Unit::Count, help);
    }
    for (name, unit, help) in HISTOGRAMS {
        describe_histogram!(name, unit, help);
    }
}

fn record(report: &ScopeReport) {
    let route = SharedString::from_shared(Arc::from(report.route.as_str()));
    let labels = || {
        vec![
            Label::from_static_parts("method", report.method),
            Label::new("route", route.clone()),
        ]
    };
    let with = |name: &'static str, value: &'static str| {
        let mut labels = labels();
        labels.push(Label::from_static_parts(name, value));
        labels
    };
    counter!(COUNTERS[0].0, with("outcome", report.outcome.as_str())).increment(1);
    let class = status_class(report.status);
    counter!(COUNTERS[1].0, with("status_class", class)).increment(1);
    let result = match report.arena.source {
        ArenaSource::Pool => Some("hit"),
        ArenaSource::Fresh => Some("miss"),
        ArenaSource::Unused => None,
    };
    if let Some(result) = result {
        counter!(COUNTERS[2].0, with("result", result)).increment(1);
    }

    let usage = report.usage.as_ref();
    let seconds = |time: Duration| time.as_secs_f64();
    let figures = [
        usage.map(|usage| usage.bytes_allocated as f64),
        usage.map(|usage| usage.allocations as f64),
        usage
            .and_then(|usage| usage.peak_bytes)
            .map(|peak| peak as f64),
        Some(report.arena.bytes as f64),
        report.time_to_head.map(seconds),
        Some(seconds(report.total_time)),
    ];
    for ((name, ..), figure) in HISTOGRAMS.into_iter().zip(figures) {
        if let Some(figure) = figure {
            histogram!(name, labels()).record(figure);
        }
    }
}

/// The names of the places of [`RouteSnapshot::statuses`](super::RouteSnapshot::statuses).
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn status_class(status: Option<u16>) -> &'static str {
    let class = usize::from(status.unwrap_or(0) / 100);
    CLASSES.get(class).copied().unwrap_or(CLASSES[0])
}
