//! Names and values of the response headers.
//!
//! By default a layer adds them in debug builds only
//! ([`Expose::DebugBuilds`](crate::Expose::DebugBuilds)), each figure in a field of its own
//! ([`HeaderFormat::Fields`]).

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::decimal::{decimal, quad, short_decimal};
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

/// Size of the block that the values of several responses are split from.
const BLOCK: usize = 4096;

/// Space for the fields of one response: four numbers of at most 20 digits.
const FIELDS_LEN: usize = 4 * 20;

/// Space for the names and values of one line, without the label.
const LINE_LEN: usize = 208;

thread_local! {
    // Values are slices of one block per thread. `BytesMut` reuses the block once all of them are
    // sent, so a value costs no allocation.
    static VALUES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Calls `f` with a buffer that has room for `len` bytes, from which values are split.
fn with_values<R>(len: usize, f: impl Fn(&mut BytesMut) -> R) -> R {
    let f = |values: &mut BytesMut| {
        if values.capacity() < len {
            values.reserve(len.max(BLOCK));
        }
        f(values)
    };
    // A thread that is ending has no thread-local: use a new block.
    VALUES
        .try_with(|shared| f(&mut shared.borrow_mut()))
        .unwrap_or_else(|_| f(&mut BytesMut::new()))
}

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

/// A name of a line, with the figure behind it.
macro_rules! figure {
    ($line:ident, $name:literal, $figure:expr) => {
        if JOINT == b'=' {
            $line.figure(concat!($name, "="), $figure);
        } else {
            $line.figure(concat!($name, ";desc="), $figure);
        }
    };
}

/// A name of a line.
macro_rules! text {
    ($line:ident, $name:literal) => {
        if JOINT == b'=' {
            $line.put(concat!($name, "=").as_bytes());
        } else {
            $line.put(concat!($name, ";desc=").as_bytes());
        }
    };
}

/// A line of names and values. `JOINT` is what stands between them: `=` in a dictionary, or `;desc=` in
/// `Server-Timing`.
struct Line<const JOINT: u8> {
    bytes: [u8; LINE_LEN],
    len: usize,
}

impl<const JOINT: u8> Line<JOINT> {
    /// All figures but the label.
    #[inline]
    fn of(usage: Option<&Usage>, arena: &ArenaUsage) -> Self {
        let mut line = Self {
            bytes: [0; LINE_LEN],
            len: 0,
        };
        if let Some(usage) = usage {
            figure!(line, "alloc-bytes", usage.bytes_allocated);
            figure!(line, ", alloc-count", usage.allocations);
            if let Some(peak) = usage.peak_bytes {
                figure!(line, ", alloc-peak", peak);
            }
            figure!(line, ", arena-bytes", arena.bytes as u64);
        } else {
            figure!(line, "arena-bytes", arena.bytes as u64);
        }
        text!(line, ", arena-source");
        line.put(arena.source.as_str().as_bytes());
        line
    }

    /// The figures of the route, to follow others.
    #[cold]
    fn of_route(route: RouteFigures) -> Self {
        let mut line = Self {
            bytes: [0; LINE_LEN],
            len: 0,
        };
        figure!(line, ", alloc-bytes-mean", route.mean);
        figure!(line, ", alloc-bytes-p50", route.p50);
        figure!(line, ", alloc-bytes-p99", route.p99);
        line
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// `LINE_LEN` is enough for all of it.
    #[inline]
    fn put(&mut self, text: &[u8]) {
        let end = self.len.saturating_add(text.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(text);
            self.len = end;
        }
    }

    /// A name, with what joins it and its figure. Inlined, so that the length of the name is known, and with
    /// one look at the room for both.
    #[inline(always)]
    fn figure(&mut self, name: &str, figure: u64) {
        let (name, start) = (name.as_bytes(), self.len);
        let Some((digits, count)) = quad(figure) else {
            self.put(name);
            self.put(decimal(figure, &mut [0; 20]));
            return;
        };
        if let Some(room) = self.bytes.get_mut(start..start + name.len() + digits.len()) {
            let (head, tail) = room.split_at_mut(name.len());
            head.copy_from_slice(name);
            tail.copy_from_slice(digits);
            self.len = start + name.len() + count;
        }
    }

    /// Adds the figures of the route and the label, and returns the value. A label that `is_plain` needs no
    /// escapes.
    fn value(
        mut self,
        label: &str,
        is_plain: bool,
        route: Option<RouteFigures>,
    ) -> Option<HeaderValue> {
        if !is_plain {
            return self.value_of_any(label, route);
        }
        if let Some(route) = route {
            return self.value_with(label, route);
        }
        text!(self, ", alloc-route");
        self.put(b"\"");
        let figures = self.bytes.get(..self.len)?;
        // A label has at most 256 bytes.
        with_values(LINE_LEN + label.len() + 1, |values| {
            values.put_slice(figures);
            values.put_slice(label.as_bytes());
            values.put_u8(b'"');
            HeaderValue::from_maybe_shared(values.split().freeze()).ok()
        })
    }

    #[cold]
    #[inline(never)]
    fn value_with(&self, label: &str, route: RouteFigures) -> Option<HeaderValue> {
        let mut route = Self::of_route(route);
        text!(route, ", alloc-route");
        route.put(b"\"");
        with_values(2 * LINE_LEN + label.len() + 1, |values| {
            values.put_slice(self.as_bytes());
            values.put_slice(route.as_bytes());
            values.put_slice(label.as_bytes());
            values.put_u8(b'"');
            HeaderValue::from_maybe_shared(values.split().freeze()).ok()
        })
    }

    #[cold]
    #[inline(never)]
    fn value_of_any(self, label: &str, route: Option<RouteFigures>) -> Option<HeaderValue> {
        let mut line = self.as_bytes().to_vec();
        if let Some(route) = route {
            line.extend_from_slice(Self::of_route(route).as_bytes());
        }
        let without = line.len();
        let joint: &[u8] = if JOINT == b'=' { b"=" } else { b";desc=" };
        line.extend_from_slice(b", alloc-route");
        line.extend_from_slice(joint);
        if !quote(label, JOINT == b'=', &mut line) {
            line.truncate(without);
        }
        HeaderValue::from_bytes(&line).ok()
    }
}

/// Adds `label` in quotes. Returns `false` if it cannot be quoted.
///
/// A dictionary has Display Strings for what is not printable ASCII. A quoted string of `Server-Timing` has room
/// for all but control characters.
fn quote(label: &str, has_display_strings: bool, out: &mut Vec<u8>) -> bool {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let ascii = label.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if has_display_strings && !ascii {
        out.extend_from_slice(b"%\"");
        for byte in label.bytes() {
            if matches!(byte, b' '..=b'~') && byte != b'%' && byte != b'"' {
                out.push(byte);
                continue;
            }
            out.push(b'%');
            for half in [byte >> 4, byte & 15] {
                out.extend(HEX.get(usize::from(half)));
            }
        }
        out.push(b'"');
        return true;
    }
    if label.bytes().any(|byte| byte.is_ascii_control()) {
        return false;
    }
    out.push(b'"');
    for byte in label.bytes() {
        if byte == b'"' || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::HeapUsage;

    fn most() -> (Usage, ArenaUsage) {
        let usage = Usage {
            heap: HeapUsage {
                allocations: u64::MAX,
                bytes_allocated: u64::MAX,
                ..HeapUsage::default()
            },
            held_bytes: None,
            peak_bytes: Some(u64::MAX),
        };
        let arena = ArenaUsage {
            bytes: usize::MAX,
            source: ArenaSource::Unused,
            capacity: 0,
        };
        (usage, arena)
    }

    #[test]
    fn the_longest_line_has_room() {
        let (usage, arena) = most();
        let label = "/".repeat(256);
        let line = Line::<b';'>::of(Some(&usage), &arena)
            .value(&label, true, None)
            .expect("visible");
        let max = u64::MAX;
        let expected = format!(
            "alloc-bytes;desc={max}, alloc-count;desc={max}, alloc-peak;desc={max}, \
             arena-bytes;desc={}, arena-source;desc=unused, alloc-route;desc=\"{label}\"",
            usize::MAX,
        );
        assert_eq!(line, expected);
        let line = Line::<b'='>::of(Some(&usage), &arena)
            .value(&label, true, None)
            .expect("visible");
        assert_eq!(line, expected.replace(";desc", ""));

        let route = RouteFigures {
            mean: max,
            p50: max,
            p99: max,
        };
        let with = format!(
            ", alloc-bytes-mean;desc={max}, alloc-bytes-p50;desc={max}, alloc-bytes-p99;desc={max}, alloc-route",
        );
        let expected = expected.replace(", alloc-route", &with);
        for label in [label.as_str(), "a\\b"] {
            let line = Line::<b';'>::of(Some(&usage), &arena);
            let value = line
                .value(label, !label.contains('\\'), Some(route))
                .expect("visible");
            let quoted = label.replace('\\', "\\\\");
            assert_eq!(value, expected.replace(&"/".repeat(256), &quoted));
        }
    }

    #[test]
    fn labels_of_any_characters_are_quoted_or_left_out() {
        let (_, arena) = most();
        let figures = format!("arena-bytes={}, arena-source=unused", usize::MAX);
        for (label, dictionary, timing) in [
            ("a b", r#""a b""#, Some(r#""a b""#)),
            (r#"a"b\c"#, r#""a\"b\\c""#, Some(r#""a\"b\\c""#)),
            (
                "für 100%\"",
                r#"%"f%c3%bcr 100%25%22""#,
                Some("\"für 100%\\\"\""),
            ),
            ("a\nb", r#"%"a%0ab""#, None),
            ("a\u{7f}", r#"%"a%7f""#, None),
        ] {
            let value = Line::<b'='>::of(None, &arena)
                .value(label, label == "a b", None)
                .expect("any label");
            assert_eq!(value, format!("{figures}, alloc-route={dictionary}"));
            let value = Line::<b';'>::of(None, &arena)
                .value(label, label == "a b", None)
                .expect("no label, at least");
            let route = timing.map_or(String::new(), |timing| {
                format!(", alloc-route;desc={timing}")
            });
            let expected = figures.replace('=', ";desc=") + &route;
            assert_eq!(value.as_bytes(), expected.as_bytes());
        }
    }
}
