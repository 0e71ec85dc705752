use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::{
    deadline::RequestTimes,
    sync::{AtomicU64, Ordering},
    wire::deadline_header::{DeadlineHeader, RequestStart},
};

/// Which headers of a request the layer believes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trust {
    /// By the place in [`DeadlineHeader::ALL`].
    deadlines: [bool; DeadlineHeader::ALL.len()],
    request_start: bool,
    /// How much earlier than the headers say requests end.
    margin: Duration,
}

impl Trust {
    pub(super) fn add(&mut self, header: DeadlineHeader) {
        for (known, trusted) in DeadlineHeader::ALL.iter().zip(&mut self.deadlines) {
            *trusted |= *known == header;
        }
    }

    pub(super) const fn add_request_start(&mut self) {
        self.request_start = true;
    }

    pub(super) const fn set_margin(&mut self, margin: Duration) {
        self.margin = margin;
    }

    /// What the headers say of the request's time. Of a header that comes more than once, and of
    /// several headers, the shortest time counts. Values that cannot be read are left out, and added
    /// to `unparsable`.
    pub(super) fn times(&self, headers: &HeaderMap, unparsable: &AtomicU64) -> RequestTimes {
        let mut times = RequestTimes::default();
        let skipped = || {
            // Relaxed: a figure.
            unparsable.fetch_add(1, Ordering::Relaxed);
        };
        for (header, trusted) in DeadlineHeader::ALL.iter().copied().zip(self.deadlines) {
            if !trusted {
                continue;
            }
            for value in headers.get_all(header.name()) {
                let Ok(timeout) = header.parse(value.as_bytes()) else {
                    skipped();
                    continue;
                };
                let timeout = timeout.saturating_sub(self.margin);
                if times.deadline.is_none_or(|(least, _)| timeout < least) {
                    times.deadline = Some((timeout, header.deadline_source()));
                }
            }
        }
        if self.request_start {
            let mut earliest: Option<RequestStart> = None;
            for value in headers.get_all(RequestStart::NAME) {
                let Ok(start) = RequestStart::parse(value.as_bytes()) else {
                    skipped();
                    continue;
                };
                earliest = Some(earliest.map_or(start, |earlier| earlier.min(start)));
            }
            if let Some(start) = earliest {
                times.queued = start.queued_at(SystemTime::now());
            }
        }
        times
    }
}
