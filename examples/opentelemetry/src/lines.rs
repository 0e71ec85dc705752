//! An exporter that writes a line for each figure.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
};
use tower_memory::observe::Snapshot;

/// The figures that were exported last, by name and attributes.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    prints: bool,
    last: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Lines {
    pub(crate) fn new(prints: bool) -> Self {
        Self {
            prints,
            last: Arc::default(),
        }
    }

    /// # Panics
    ///
    /// Panics if they are not those of the snapshot.
    pub(crate) fn compare(&self, snapshot: &Snapshot) {
        let last = self.last.lock().expect("no panic");
        assert!(!snapshot.routes.is_empty());
        for row in &snapshot.routes {
            let attributes = format!(
                "http.request.method={},http.route={}",
                row.method, row.route
            );
            let exported = |name: &str| last[&format!("tower_memory.{name}{{{attributes}}}")];
            assert_eq!(exported("requests"), row.requests);
            assert_eq!(exported("requests.in_flight"), row.in_flight as u64);
            let bytes = row.bytes.as_ref().expect("the allocator is installed");
            assert_eq!(exported("request.allocated"), bytes.total);
            let count = row.allocations.as_ref().expect("as the bytes");
            assert_eq!(exported("request.allocations"), count.total);
        }
    }
}

fn key<'a>(name: &str, attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let mut attributes: Vec<_> = attributes
        .map(|pair| format!("{}={}", pair.key, pair.value))
        .collect();
    attributes.sort();
    format!("{name}{{{}}}", attributes.join(","))
}

impl PushMetricExporter for Lines {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut figures = BTreeMap::new();
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            let name = metric.name();
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => figures.extend(
                    sum.data_points()
                        .map(|point| (key(name, point.attributes()), point.value())),
                ),
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => figures.extend(
                    gauge
                        .data_points()
                        .map(|point| (key(name, point.attributes()), point.value())),
                ),
                _ => {}
            }
        }
        if self.prints {
            for (key, figure) in &figures {
                println!("{key} {figure}");
            }
        }
        *self.last.lock().expect("no panic") = figures;
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}
