//! Names and values of the response headers.
//!
//! By default a layer adds them in debug builds only
//! ([`Expose::DebugBuilds`](crate::Expose::DebugBuilds)), each figure in a field of its own
//! ([`HeaderFormat::Fields`]).

use bytes::BufMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    decimal::{decimal, short_decimal},
    line::{Line, with_values},
};
use crate::{
    account::Usage,
    scope::{ArenaSource, ArenaUsage, RequestScope, RouteFigures},
};

/// Heap bytes the request allocated before the response head, growth of blocks included.
pub const X_ALLOC_BYTES: HeaderName = HeaderName::from_static("x-alloc-bytes");

/// Heap blocks the request allocated before the response head.
pub const X_ALLOC_COUNT: HeaderName = HeaderName::from_static("x-alloc-count");

/// The most heap bytes the request held at once while it was polled, before the response head.
pub const X_ALLOC_PEAK: HeaderName = HeaderName::from_static("x-alloc-peak");

/// Mean of the heap bytes that closed requests of the same method and route allocated
/// ([`expose_route_figures`](crate::middleware::MemoryLayerBuilder::expose_route_figures)).
pub const X_ALLOC_BYTES_MEAN: HeaderName = HeaderName::from_static("x-alloc-bytes-mean");

/// Median of these.
pub const X_ALLOC_BYTES_P50: HeaderName = HeaderName::from_static("x-alloc-bytes-p50");

/// 99th percentile of these.
pub const X_ALLOC_BYTES_P99: HeaderName = HeaderName::from_static("x-alloc-bytes-p99");

/// The route label that the request's statistics are kept under.
pub const X_ALLOC_ROUTE: HeaderName = HeaderName::from_static("x-alloc-route");

/// Arena bytes in use at the response head, padding included.
pub const X_ARENA_BYTES: HeaderName = HeaderName::from_static("x-arena-bytes");

/// Origin of the arena: `pool`, `fresh` or `unused`.
pub const X_ARENA_SOURCE: HeaderName = HeaderName::from_static("x-arena-source");

/// All figures as one dictionary ([`HeaderFormat::Dictionary`]).
pub const MEMORY_USAGE: HeaderName = HeaderName::from_static("memory-usage");

pub use super::load_report::ENDPOINT_LOAD_METRICS;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How the figures of a request are written into the headers of its response.
///
/// The names are the same in all forms, but for the prefix `x-` of the fields. A figure that is not known
/// is left out. [`Expose`](crate::Expose) chooses which clients see them.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{Expose, MemoryLayer, header::{HeaderFormat, MEMORY_USAGE}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::builder()
///     .expose(Expose::Always)
///     .header_format(HeaderFormat::Dictionary)
///     .build()?;
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// // This program has no `TrackingAllocator`, so there are no figures of the heap.
/// assert_eq!(
///     response.headers()[MEMORY_USAGE],
///     r#"arena-bytes=0, arena-source=unused, alloc-route="{unmatched}""#,
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// A field for each figure, such as `x-alloc-bytes: 1288`.
    #[default]
    Fields,
    /// One field, [`MEMORY_USAGE`], whose value is a dictionary of RFC 9651:
    /// `alloc-bytes=1288, .., arena-source=pool, alloc-route="/items/{id}"`.
    ///
    /// Costs less than the fields. A route label that is not ASCII is a Display String.
    Dictionary,
    /// Metrics of `Server-Timing`, such as `alloc-bytes;desc=1288`, beside those of the handler.
    ///
    /// Browsers show them among the timings of a request, and scripts read them with
    /// `PerformanceResourceTiming.serverTiming`: from another origin only with `Timing-Allow-Origin`.
    ServerTiming,
}

/// Maximum number of fields that [`write()`] adds.
const COUNT: usize = 6;

/// Names of the fields for figures of the route.
const OF_ROUTE: [HeaderName; 3] = [X_ALLOC_BYTES_MEAN, X_ALLOC_BYTES_P50, X_ALLOC_BYTES_P99];

/// The fields that [`write()`] adds without figures of the route, as the value of a `Trailer` field.
pub(crate) const fn trailer_names(format: HeaderFormat) -> &'static str {
    match format {
        HeaderFormat::Fields => {
            "x-alloc-route, x-alloc-bytes, x-alloc-count, x-alloc-peak, x-arena-bytes, x-arena-source"
        }
        HeaderFormat::Dictionary => "memory-usage",
        HeaderFormat::ServerTiming => "server-timing",
    }
}

/// Space for the fields of one response: four numbers of at most 20 digits.
const FIELDS_LEN: usize = 4 * 20;

/// Adds the figures of `scope`, and perhaps those of its route, to the headers or trailers of a response.
///
/// Unknown figures, and labels that cannot be written in this form, are left out.
pub(crate) fn write(
    scope: &RequestScope,
    headers: &mut HeaderMap,
    format: HeaderFormat,
    route: Option<RouteFigures>,
) {
    let (usage, arena) = (scope.usage(), scope.arena_usage());
    match format {
        HeaderFormat::Fields => {
            write_fields(scope, usage.as_ref(), &arena, headers);
            if let Some(route) = route {
                write_route_fields(route, headers);
            }
        }
        HeaderFormat::Dictionary => {
            let line = Line::<b'='>::of(usage.as_ref(), &arena);
            let entry = scope.route_entry();
            if let Some(value) = line.value(entry.label.as_str(), entry.is_plain, route) {
                headers.insert(MEMORY_USAGE, value);
            }
        }
        HeaderFormat::ServerTiming => {
            let line = Line::<b';'>::of(usage.as_ref(), &arena);
            let entry = scope.route_entry();
            if let Some(value) = line.value(entry.label.as_str(), entry.is_plain, route) {
                headers.append(SERVER_TIMING, value);
            }
        }
    }
}

#[cold]
fn write_route_fields(route: RouteFigures, headers: &mut HeaderMap) {
    let figures = [route.mean, route.p50, route.p99];
    for (name, figure) in OF_ROUTE.into_iter().zip(figures) {
        if let Some(value) = number(figure) {
            headers.insert(name, value);
        }
    }
}

fn write_fields(
    scope: &RequestScope,
    usage: Option<&Usage>,
    arena: &ArenaUsage,
    headers: &mut HeaderMap,
) {
    headers.reserve(COUNT);
    if let Ok(route) = HeaderValue::from_maybe_shared(scope.route_entry().header.clone()) {
        headers.insert(X_ALLOC_ROUTE, route);
    }
    let mut insert = |name: HeaderName, figure: u64| {
        if let Some(value) = number(figure) {
            headers.insert(name, value);
        }
    };
    if let Some(usage) = usage {
        insert(X_ALLOC_BYTES, usage.bytes_allocated);
        insert(X_ALLOC_COUNT, usage.allocations);
        if let Some(peak) = usage.peak_bytes {
            insert(X_ALLOC_PEAK, peak);
        }
    }
    insert(X_ARENA_BYTES, arena.bytes as u64);
    headers.insert(X_ARENA_SOURCE, source(arena.source));
}

/// Made when this is compiled, so that no byte is looked at.
fn source(source: ArenaSource) -> HeaderValue {
    match source {
        ArenaSource::Fresh => const { HeaderValue::from_static(ArenaSource::Fresh.as_str()) },
        ArenaSource::Pool => const { HeaderValue::from_static(ArenaSource::Pool.as_str()) },
        ArenaSource::Unused => const { HeaderValue::from_static(ArenaSource::Unused.as_str()) },
    }
}

/// Most numbers are static texts, which count no references.
#[inline]
fn number(figure: u64) -> Option<HeaderValue> {
    match short_decimal(figure) {
        Some(text) => Some(HeaderValue::from_static(text)),
        None => long_number(figure),
    }
}

#[inline(never)]
fn long_number(figure: u64) -> Option<HeaderValue> {
    with_values(FIELDS_LEN, |values| {
        values.put_slice(decimal(figure, &mut [0; 20]));
        HeaderValue::from_maybe_shared(values.split().freeze()).ok()
    })
}
