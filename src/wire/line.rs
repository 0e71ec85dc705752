//! Values of response headers that are one line: a dictionary, or `Server-Timing`.

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use http::HeaderValue;

use super::decimal::{decimal, quad};
use crate::{
    account::Usage,
    scope::{ArenaUsage, RouteFigures},
};

/// Size of the block that the values of several responses are split from.
const BLOCK: usize = 4096;

/// Space for the names and values of one line, without the label.
const LINE_LEN: usize = 208;

thread_local! {
    // Values are slices of one block per thread. `BytesMut` reuses the block once all of them are
    // sent, so a value costs no allocation.
    static VALUES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Calls `f` with a buffer that has room for `len` bytes, from which values are split.
pub(super) fn with_values<R>(len: usize, f: impl Fn(&mut BytesMut) -> R) -> R {
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
pub(super) struct Line<const JOINT: u8> {
    bytes: [u8; LINE_LEN],
    len: usize,
}

impl<const JOINT: u8> Line<JOINT> {
    /// All figures but the label.
    #[inline]
    pub(super) fn of(usage: Option<&Usage>, arena: &ArenaUsage) -> Self {
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
    pub(super) fn value(
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
    use crate::{account::HeapUsage, scope::ArenaSource};

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
