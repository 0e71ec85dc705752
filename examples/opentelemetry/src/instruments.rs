//! Instruments of OpenTelemetry over a snapshot.

use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tower_memory::{MemoryHandle, observe::RouteSnapshot};

/// A sum of a row: name, unit, description, and its value, absent if it is not known.
type Sum = (
    &'static str,
    &'static str,
    &'static str,
    fn(&RouteSnapshot) -> Option<u64>,
);

const SUMS: [Sum; 4] = [
    (
        "tower_memory.request.allocated",
        "By",
        "Heap bytes allocated by closed requests",
        |row| Some(row.bytes.as_ref()?.total),
    ),
    (
        "tower_memory.request.allocations",
        "{allocation}",
        "Heap allocations of closed requests",
        |row| Some(row.allocations.as_ref()?.total),
    ),
    (
        "tower_memory.request.arena",
        "By",
        "Bytes that closed requests took from their arena",
        |row| Some(row.arena_bytes.as_ref()?.total),
    ),
    (
        "tower_memory.requests",
        "{request}",
        "Closed requests",
        |row| Some(row.outcomes.total()),
    ),
];

/// Has the provider read the figures of a layer when it collects.
pub(crate) fn observe(provider: &SdkMeterProvider, handle: &MemoryHandle) {
    let meter = provider.meter("tower_memory");
    for (name, unit, description, of) in SUMS {
        let handle = handle.clone();
        meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| {
                for row in handle.snapshot().routes {
                    if let Some(sum) = of(&row) {
                        observer.observe(sum, &attributes(&row));
                    }
                }
            })
            .build();
    }
    let gauges = handle.clone();
    meter
        .u64_observable_gauge("tower_memory.requests.in_flight")
        .with_unit("{request}")
        .with_description("Open requests")
        .with_callback(move |observer| {
            for row in gauges.snapshot().routes {
                observer.observe(row.in_flight as u64, &attributes(&row));
            }
        })
        .build();
    let pool = handle.pool().clone();
    meter
        .u64_observable_gauge("tower_memory.pool.size")
        .with_unit("By")
        .with_description("Memory of the pool")
        .with_callback(move |observer| {
            let stats = pool.stats();
            for (state, bytes) in [
                ("waiting", stats.pooled_bytes),
                ("arenas", stats.rented_bytes),
                ("buffers", stats.buffer_bytes),
            ] {
                observer.observe(bytes as u64, &[KeyValue::new("state", state)]);
            }
        })
        .build();
}

fn attributes(row: &RouteSnapshot) -> [KeyValue; 2] {
    [
        KeyValue::new("http.request.method", row.method),
        KeyValue::new("http.route", row.route.as_str().to_owned()),
    ]
}
