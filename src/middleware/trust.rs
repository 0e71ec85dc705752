use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::{
    deadline::RequestTimes,
    sync::{AtomicU64, Ordering},
    wire::deadline_header::{DeadlineHeader, RequestStart},
};

/// The headers of a request that the layer trusts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trust {
    /// By the position in [`DeadlineHeader::ALL`].
    deadlines: [bool; DeadlineHeader::ALL.len()],
    pub(super) request_start: bool,
    /// How much earlier than the headers say requests end.
    pub(super) margin: Duration,
}

impl Trust {
    pub(super) fn add(&mut self, header: DeadlineHeader) {
        for (known, trusted) in DeadlineHeader::ALL.iter().zip(&mut self.deadlines) {
            *trusted |= *known == header;
        }
    }

    /// What the headers say about the request's time. The shortest time counts, among several
    /// headers and among several values of one header. Values that cannot be parsed are ignored and
    /// counted in `unparsable`.
    pub(super) fn times(&self, headers: &HeaderMap, unparsable: &AtomicU64) -> RequestTimes {
        let mut times = RequestTimes::default();
        for (header, trusted) in DeadlineHeader::ALL.iter().copied().zip(self.deadlines) {
            if trusted {
                let parse = |value: &[u8]| header.parse(value);
                let deadline = least(headers, header.name(), parse, unparsable).map(|timeout| {
                    let timeout = timeout.saturating_sub(self.margin);
                    (timeout, header.deadline_source())
                });
                let deadlines = times.deadline.into_iter().chain(deadline);
                times.deadline = deadlines.min_by_key(|(timeout, _)| *timeout);
            }
        }
        if self.request_start {
            let earliest = least(headers, RequestStart::NAME, RequestStart::parse, unparsable);
            if let Some(start) = earliest {
                times.queued = start.queued_at(SystemTime::now());
            }
        }
        times
    }
}

/// The least of what `parse` makes of a header's values. Counts those that it cannot parse.
fn least<T: Ord>(
    headers: &HeaderMap,
    name: HeaderName,
    parse: impl Fn(&[u8]) -> Option<T>,
    unparsable: &AtomicU64,
) -> Option<T> {
    let values = headers.get_all(name).into_iter();
    let parsed = values.map(|value| parse(value.as_bytes()));
    let counted = parsed.inspect(|parsed| {
        if parsed.is_none() {
            // Relaxed: a counter.
            unparsable.fetch_add(1, Ordering::Relaxed);
        }
    });
    counted.flatten().min()
}
