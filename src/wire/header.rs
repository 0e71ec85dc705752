//! Names and values of the response headers.
//!
//! By default a layer adds them in debug builds only
//! ([`Expose::DebugBuilds`](crate::Expose::DebugBuilds)).

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::scope::RequestScope;

/// Heap bytes the request allocated before the response head, growth of blocks included.
pub const X_ALLOC_BYTES: HeaderName = HeaderName::from_static("x-alloc-bytes");

/// Heap blocks the request allocated before the response head.
pub const X_ALLOC_COUNT: HeaderName = HeaderName::from_static("x-alloc-count");

/// The most heap bytes the request held at once while it was polled, before the response head.
pub const X_ALLOC_PEAK: HeaderName = HeaderName::from_static("x-alloc-peak");

/// The route label that the request's statistics are kept under.
pub const X_ALLOC_ROUTE: HeaderName = HeaderName::from_static("x-alloc-route");

/// Arena bytes in use at the response head, padding included.
pub const X_ARENA_BYTES: HeaderName = HeaderName::from_static("x-arena-bytes");

/// Origin of the arena: `pool`, `fresh` or `unused`.
pub const X_ARENA_SOURCE: HeaderName = HeaderName::from_static("x-arena-source");

/// Maximum number of headers that [`write()`] adds.
const COUNT: usize = 6;

/// Size of the block that the values of several responses are split from.
const BLOCK: usize = 4096;

/// Space for one response: four numbers of at most 20 digits.
const VALUES_LEN: usize = 4 * 20;

thread_local! {
    // Values are slices of one block per thread. `BytesMut` reuses the block once all of them are
    // sent, so a value costs no allocation.
    static VALUES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Adds the figures of `scope` to the headers of a response.
///
/// Unknown figures, and labels that are no valid header value, are left out.
pub(crate) fn write(scope: &RequestScope, headers: &mut HeaderMap) {
    let (usage, arena) = (scope.usage(), scope.arena_usage());
    headers.reserve(COUNT);
    if let Ok(route) = HeaderValue::from_maybe_shared(scope.route_entry().header.clone()) {
        headers.insert(X_ALLOC_ROUTE, route);
    }
    let mut values = |values: &mut BytesMut| {
        if values.capacity() < VALUES_LEN {
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
            if let Some(peak) = usage.peak_bytes {
                insert(X_ALLOC_PEAK, peak);
            }
        }
        insert(X_ARENA_BYTES, arena.bytes as u64);
    };
    // A thread that is ending has no thread-local: use a new block.
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
