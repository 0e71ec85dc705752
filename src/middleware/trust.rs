use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::{
    deadline::RequestTimes,
    observe::warn_implausible_start,
    scope::LayerState,
    sync::{AtomicU64, Ordering},
    wire::deadline_header::{DeadlineHeader, RequestStart},
};

/// The default of `MemoryLayerBuilder::max_queue_time`. Proxies give up by then: Heroku's router after
/// 30 s, nginx after 60 s.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(60);

/// Clocks that are synchronized differ by less.
const MAX_AHEAD: Duration = Duration::from_secs(1);

// `MemoryLayerBuilder::max_queue_time` and `deadline_header` state these.
const _: () = assert!(MAX_QUEUE_TIME.as_secs() == 60 && MAX_AHEAD.as_secs() == 1);

/// The headers of a request that the layer trusts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust {
    /// By the position in [`DeadlineHeader::ALL`].
    deadlines: [bool; DeadlineHeader::ALL.len()],
    pub(super) request_start: bool,
    /// The longest time in a queue that `x-request-start` is believed.
    pub(super) max_queue_time: Duration,
    /// How much earlier than the headers say requests end.
    pub(super) margin: Duration,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            deadlines: [false; DeadlineHeader::ALL.len()],
            request_start: false,
            max_queue_time: MAX_QUEUE_TIME,
            margin: Duration::ZERO,
        }
    }
}

impl Trust {
    pub(super) fn add(&mut self, header: DeadlineHeader) {
        for (known, trusted) in DeadlineHeader::ALL.iter().zip(&mut self.deadlines) {
            *trusted |= *known == header;
        }
    }

    /// What the headers say about the request's time. The shortest time counts, among several
    /// headers and among several values of one header. Values that cannot be parsed, or believed, are
    /// ignored and counted in `layer`.
    pub(super) fn times(&self, headers: &HeaderMap, layer: &LayerState) -> RequestTimes {
        let unparsable = &layer.unparsable_deadlines;
        let mut times = RequestTimes::default();
        for (header, trusted) in DeadlineHeader::ALL.iter().copied().zip(self.deadlines) {
            if trusted || bug!("untrusted-header-believed") {
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
                times.queued = self.queued(start, SystemTime::now(), layer);
            }
        }
        times
    }

    /// The time in a queue that a start says, or zero if one of the two clocks must be wrong.
    fn queued(&self, start: RequestStart, now: SystemTime, layer: &LayerState) -> Duration {
        let queued = start.queued_at(now);
        let ahead = start.ahead_of(now);
        if queued <= self.max_queue_time && ahead <= MAX_AHEAD {
            return queued;
        }
        // Relaxed: a counter.
        layer.implausible_starts.fetch_add(1, Ordering::Relaxed);
        warn_implausible_start(queued, ahead);
        Duration::ZERO
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
