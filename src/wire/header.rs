//! The names of the response headers, and their values.

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::scope::RequestScope;

/// Response header: heap bytes the request allocated up to the response head.
pub const X_ALLOC_BYTES: HeaderName = HeaderName::from_static("x-alloc-bytes");

/// Response header: heap blocks the request allocated up to the response head.
pub const X_ALLOC_COUNT: HeaderName = HeaderName::from_static("x-alloc-count");

/// Response header: the highest number of heap bytes the request held while it was polled.
pub const X_ALLOC_PEAK: HeaderName = HeaderName::from_static("x-alloc-peak");

/// Response header: the route the figures are kept under.
pub const X_ALLOC_ROUTE: HeaderName = HeaderName::from_static("x-alloc-route");

/// Response header: bytes of its arena that the request has in use at the response head, padding
/// included.
pub const X_ARENA_BYTES: HeaderName = HeaderName::from_static("x-arena-bytes");

/// Response header: where the arena came from: `pool`, `fresh` or `unused`.
pub const X_ARENA_SOURCE: HeaderName = HeaderName::from_static("x-arena-source");

/// How many headers [`write()`] adds at most.
const COUNT: usize = 6;

/// Bytes of the block that the values of several responses are cut from.
const BLOCK: usize = 4096;

/// Room for the figures of one response: four numbers of at most 20 digits.
const ROOM: usize = 4 * 20;

thread_local! {
    // Values are slices of a block per thread, which is used again when all of them are sent: a
    // header value of its own would be an allocation each.
    static VALUES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Adds the figures of `scope` to a response's headers.
///
/// A figure that is not known gets no header, nor does a label that is no header value.
pub(crate) fn write(scope: &RequestScope, headers: &mut HeaderMap) {
    let (usage, arena) = (scope.usage(), scope.arena_usage());
    headers.reserve(COUNT);
    if let Ok(route) = HeaderValue::from_maybe_shared(scope.route_entry().header.clone()) {
        headers.insert(X_ALLOC_ROUTE, route);
    }
    let mut values = |values: &mut BytesMut| {
        if values.capacity() < ROOM {
            values.reserve(BLOCK);
        }
        let mut insert = |name: HeaderName, number: u64| {
            put_decimal(values, number);
            if let Ok(value) = HeaderValue::from_maybe_shared(values.split().freeze()) {
                headers.insert(name, value);
            }
        };
        if let Some(usage) = usage {
            insert(X_ALLOC_BYTES, usage.bytes_allocated);
            insert(X_ALLOC_COUNT, usage.allocations);
            insert(X_ALLOC_PEAK, usage.peak_bytes);
        }
        insert(X_ARENA_BYTES, arena.bytes as u64);
    };
    // On a thread that is ending: a block of its own.
    if VALUES
        .try_with(|shared| values(&mut shared.borrow_mut()))
        .is_err()
    {
        values(&mut BytesMut::new());
    }
    headers.insert(
        X_ARENA_SOURCE,
        HeaderValue::from_static(arena.source.as_str()),
    );
}

fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    out.put_slice(digits.get(start..).unwrap_or(&[]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX] {
            let mut out = BytesMut::new();
            put_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
