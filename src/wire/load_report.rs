//! The load of the process, for balancers that speak ORCA.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::Pressure;

/// How tight memory is, in the text form of ORCA, such as
/// `TEXT application_utilization=0.8312,mem_utilization=0.8312,named_metrics.memory_pressure=0.18`.
///
/// See [`MemoryLayerBuilder::report_load`](crate::middleware::MemoryLayerBuilder::report_load).
pub const ENDPOINT_LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Writes the report. A figure that is not known is left out.
pub(crate) fn report_load(pressure: &Pressure, headers: &mut HeaderMap) {
    let mut text = "TEXT ".to_owned();
    if let Some(used) = pressure.used {
        let share = used as f64 / pressure.limit.max(1) as f64;
        let _ = write!(
            text,
            "application_utilization={share:.4},mem_utilization={share:.4},"
        );
    }
    let _ = write!(text, "named_metrics.memory_pressure={:.2}", pressure.level);
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(ENDPOINT_LOAD_METRICS, value);
    }
}
