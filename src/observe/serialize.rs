//! Snapshots as `serde` data.

use std::{collections::BTreeMap, time::Duration};

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};

use super::{
    extremes::PastRequest,
    requests::RouteExtremes,
    snapshot::{OutcomeCounts, RouteSnapshot, Snapshot},
    summary::{Summary, TimeSummary},
};
use crate::{
    limit::{LimitSnapshot, RefusedBy, Stage},
    pool::PoolStats,
    scope::{ArenaUsage, LiveRequest, ScopeReport},
};

/// Serializes fields of `$of` under their names, and then others.
macro_rules! fields {
    ($serializer:ident, $name:literal, $of:ident: $($field:ident)*; $($other:ident: $value:expr,)*) => {{
        let names = [$(stringify!($field),)* $(stringify!($other),)*];
        let mut fields = $serializer.serialize_struct($name, names.len())?;
        $(fields.serialize_field(stringify!($field), &$of.$field)?;)*
        $(fields.serialize_field(stringify!($other), &$value)?;)*
        fields.end()
    }};
}

/// With `mean`, `p50`, `p90` and `p99` in place of the histogram.
impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "Summary", self: count total max;
            mean: self.mean(),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
        )
    }
}

/// As [`Summary`], in nanoseconds.
impl Serialize for TimeSummary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.nanos().serialize(serializer)
    }
}

/// A map of the names of the outcomes that occurred.
impl Serialize for OutcomeCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.iter().count()))?;
        for (outcome, count) in self.iter() {
            map.serialize_entry(outcome.as_str(), &count)?;
        }
        map.end()
    }
}

/// With the names of its fields. Times are in nanoseconds.
impl Serialize for RouteSnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "RouteSnapshot", self:
            method requests in_flight open_bytes outcomes statuses bytes peak_bytes allocations arena_bytes
            arena_hits arena_misses learned_arena_bytes learned_buffer_bytes unreleased_buffers unreleased_bytes arenas_left
            held_after_close over_limit time_to_head total_time would_refuse would_cancel would_exceed;
            route: self.route.as_str(),
            time_to_end: nanos(self.time_to_end),
        )
    }
}

/// With the names of its fields.
impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "Snapshot", self:
            routes in_flight tasks detached tokens pool unparsable_deadlines implausible_request_starts
            observer_panics dropped_reports housekeeping_panics limit;
        )
    }
}

/// With the names of its fields. Times are in nanoseconds; `refused` and `stage_times` are maps by name.
impl Serialize for LimitSnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let times = Stage::ALL.iter().zip(self.stage_times);
        let refused = RefusedBy::ALL.iter().zip(self.refused);
        fields!(serializer, "LimitSnapshot", self:
            limit limit_source used source held base reserved k admitted candidates cancelled would_refuse
            would_cancel would_exceed failed_readings reclaims reclaimed_bytes;
            mode: self.mode.as_str(),
            stage: self.stage.as_str(),
            stage_times: times.map(|(stage, time)| (stage.as_str(), nanos(time))).collect::<BTreeMap<_, _>>(),
            refused: refused.map(|(by, count)| (by.as_str(), count)).collect::<BTreeMap<_, _>>(),
        )
    }
}

/// With the names of its fields.
impl Serialize for PoolStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "PoolStats", self:
            pooled pooled_buffers pooled_bytes rented rented_bytes buffers buffer_bytes evicted_bytes hits misses
            buffer_hits buffer_misses;
        )
    }
}

/// With the names of its fields. Times are in nanoseconds; `annotations` is a map.
impl Serialize for LiveRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "LiveRequest", self:
            id method status bytes allocations arena_bytes tasks;
            route: self.route.as_str(),
            age: nanos(self.age),
            deadline_left: self.deadline_left.map(nanos),
            cancelled: self.cancelled.map(|outcome| outcome.as_str()),
            annotations: map(&self.annotations),
        )
    }
}

/// With the names of its fields. Times are in nanoseconds, `annotations` is a map, and the figures of `usage` and
/// `arena` are `bytes`, `allocations`, `peak_bytes`, `arena_bytes` and `arena_source`. Without `overruns`, which are
/// counted.
impl Serialize for ScopeReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (usage, ArenaUsage { bytes, source, .. }) = (self.usage, self.arena);
        fields!(serializer, "ScopeReport", self:
            id method status tasks_spawned tasks_aborted tasks_given_up;
            route: self.route.as_str(),
            outcome: self.outcome.as_str(),
            deadline_source: self.deadline_source.map(|source| source.to_string()),
            bytes: usage.map(|usage| usage.bytes_allocated),
            allocations: usage.map(|usage| usage.allocations),
            peak_bytes: usage.and_then(|usage| usage.peak_bytes),
            arena_bytes: bytes,
            arena_source: source.as_str(),
            time_to_head: self.time_to_head.map(nanos),
            time_to_end: nanos(self.time_to_end),
            total_time: nanos(self.total_time),
            cancel_latency: self.cancel_latency.map(nanos),
            annotations: map(&self.annotations),
        )
    }
}

/// With the names of its fields; `ago` is in nanoseconds.
impl Serialize for PastRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "PastRequest", self: report; ago: nanos(self.ago),)
    }
}

/// With the names of its fields.
impl Serialize for RouteExtremes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, "RouteExtremes", self: method largest slowest; route: self.route.as_str(),)
    }
}

fn map<'a>(annotations: &'a [(&'static str, String)]) -> BTreeMap<&'static str, &'a str> {
    let pairs = annotations.iter();
    pairs.map(|(key, value)| (*key, value.as_str())).collect()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
