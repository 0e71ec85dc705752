//! The limit of the process as metrics.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::prometheus_encode::{counter, family};
use crate::limit::{LimitSnapshot, Pressure, RefusedBy, Stage};

/// A counter without labels: its name, what it counts, and its value.
type Plain = (&'static str, &'static str, u64);

pub(super) fn limits(
    encoder: &mut DescriptorEncoder<'_>,
    limit: &LimitSnapshot,
    pressure: Option<Pressure>,
) -> fmt::Result {
    gauges(encoder, limit, pressure)?;
    let help = "Time in each stage";
    let seconds = Some(Unit::Seconds);
    let mut metric = family(
        encoder,
        "tower_memory_limit_stage",
        help,
        seconds.as_ref(),
        MetricType::Counter,
    )?;
    for (stage, time) in Stage::ALL.iter().zip(limit.stage_times) {
        metric
            .encode_family(&[("stage", stage.as_str())])?
            .encode_counter::<NoLabelSet, _, f64>(&time.as_secs_f64(), None)?;
    }
    let refused = RefusedBy::ALL
        .iter()
        .map(|by| by.as_str())
        .zip(limit.refused);
    counters(
        encoder,
        "tower_memory_limit_refused",
        "Requests that were refused",
        "by",
        refused,
    )?;
    let would = [
        ("refuse", limit.would_refuse),
        ("cancel", limit.would_cancel),
        ("exceed", limit.would_exceed),
    ];
    counters(
        encoder,
        "tower_memory_limit_would",
        "Requests that an enforced limit would have acted on",
        "action",
        would.into_iter(),
    )?;
    let plain: [Plain; 4] = [
        (
            "tower_memory_limit_admitted",
            "Requests that were admitted",
            limit.admitted,
        ),
        (
            "tower_memory_limit_cancelled",
            "Requests that were cancelled since they held the most",
            limit.cancelled,
        ),
        (
            "tower_memory_limit_failed_readings",
            "Readings of memory that failed",
            limit.failed_readings,
        ),
        (
            "tower_memory_limit_reclaims",
            "Calls of the reclaim hook",
            limit.reclaims,
        ),
    ];
    for (name, help, value) in plain {
        let mut metric = family(encoder, name, help, None, MetricType::Counter)?;
        counter::<0>(&mut metric, &[], value)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    limit: &LimitSnapshot,
    pressure: Option<Pressure>,
) -> fmt::Result {
    let bytes = Some(Unit::Bytes);
    let mut metric = family(
        encoder,
        "tower_memory_limit",
        "The limit of the process, and what counts towards it",
        bytes.as_ref(),
        MetricType::Gauge,
    )?;
    for (kind, value) in [
        ("limit", Some(limit.limit)),
        ("used", limit.used),
        ("held", limit.held),
        ("base", limit.base),
        ("reserved", Some(limit.reserved)),
    ] {
        if let Some(value) = value {
            metric
                .encode_family(&[("kind", kind)])?
                .encode_gauge(&value)?;
        }
    }
    let Some(pressure) = pressure else {
        return Ok(());
    };
    let ratio = Some(Unit::Other("ratio".to_owned()));
    let mut metric = family(
        encoder,
        "tower_memory_limit_pressure",
        "From 0, below the brown-out, to 1, where only critical requests are admitted",
        ratio.as_ref(),
        MetricType::Gauge,
    )?;
    let level = f64::from(pressure.level);
    metric.encode_gauge(&level)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut metric = family(encoder, name, help, None, MetricType::Counter)?;
    for (of, value) in values {
        counter(&mut metric, &[(label, of)], value)?;
    }
    Ok(())
}
