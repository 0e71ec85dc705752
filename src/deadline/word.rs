use std::time::Duration;

use tokio::time::Instant;

use super::source::DeadlineSource;
use crate::sync::{AtomicU64, Ordering, SetMut};

/// Bits of a packed deadline that hold the source.
const SOURCE_BITS: u32 = 4;

const NONE: u64 = u64::MAX;

/// The earliest of the deadlines set so far.
///
/// Time and source are packed into one word, so that they always belong together: the time since the
/// start in units of 16 ns, and the source's code in the lowest bits. Comparing words compares times.
///
/// There are three such words. The request's own deadline only gets earlier; the server's can also be
/// extended and lifted. Both end the request. The third is that of the calls inside, each of which ends
/// at its own limit and puts the former word back.
///
/// All orderings are `Relaxed`, since each word is complete in itself. A thread that moves a deadline
/// wakes the sleeping future afterwards, and the waker orders the word with its next poll.
#[derive(Debug)]
pub(super) struct Deadline {
    ours: AtomicU64,
    request: AtomicU64,
    call: AtomicU64,
}

/// What a call has changed, to be put back at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Former {
    call: u64,
    /// What the call has lifted; [`NONE`] if nothing.
    ours: u64,
    /// Whether the call's own limit is in force, and not an outer call's.
    pub(super) is_limited: bool,
}

/// `None` for a time that does not fit (beyond 500 years), which is no deadline.
fn pack(after: Duration, source: DeadlineSource) -> Option<u64> {
    // Rounded up: a request is never ended before its time.
    let units = u64::try_from(after.as_nanos())
        .ok()?
        .checked_next_multiple_of(1 << SOURCE_BITS)?;
    Some(units | source.code() as u64)
}

/// The word of a deadline `after` the start, if there is one.
pub(super) fn packed(after: Option<Duration>, source: DeadlineSource) -> u64 {
    after.and_then(|after| pack(after, source)).unwrap_or(NONE)
}

impl Deadline {
    /// Sets the server's deadline of a new request, which has none.
    #[inline]
    pub(super) fn begin(&self, packed: u64) {
        self.ours.store(packed, Ordering::Relaxed);
    }

    pub(super) fn none() -> Self {
        Self {
            ours: AtomicU64::new(NONE),
            request: AtomicU64::new(NONE),
            call: AtomicU64::new(NONE),
        }
    }

    /// Makes the deadline `after` the start, unless an earlier one is in force.
    pub(super) fn tighten(&self, after: Duration, source: DeadlineSource) {
        let Some(packed) = pack(after, source) else {
            return;
        };
        let word = if source.is_request() {
            &self.request
        } else {
            &self.ours
        };
        if bug!("later-deadline-wins") {
            word.store(packed, Ordering::Relaxed);
        }
        word.fetch_min(packed, Ordering::Relaxed);
    }

    /// Makes the deadline `after` the start, unless an earlier one is in force. The server cannot extend
    /// it, whatever its source.
    pub(super) fn bound(&self, after: Duration, source: DeadlineSource) {
        if let Some(packed) = pack(after, source) {
            self.request.fetch_min(packed, Ordering::Relaxed);
        }
    }

    /// Makes the server's deadline, and that of the call, `after` the start, unless there is none or a
    /// later one.
    pub(super) fn extend(&self, after: Duration, source: DeadlineSource) {
        let packed = pack(after, source).unwrap_or(NONE);
        // The greatest word is no deadline, which is the latest of all.
        self.ours.fetch_max(packed, Ordering::Relaxed);
        self.call.fetch_max(packed, Ordering::Relaxed);
    }

    /// Removes the server's deadline, and that of the call.
    pub(super) fn lift(&self) {
        self.ours.store(NONE, Ordering::Relaxed);
        self.call.store(NONE, Ordering::Relaxed);
    }

    /// Begins a call inside, with a limit of its own. `lift` removes the server's limits until it ends.
    /// Calls of one request are nested, so they end in the reverse order.
    pub(super) fn begin_call(
        &self,
        lift: bool,
        limit: Option<(Duration, DeadlineSource)>,
    ) -> Former {
        let call = self.call.load(Ordering::Relaxed);
        let mut ours = NONE;
        if lift {
            ours = self.ours.swap(NONE, Ordering::Relaxed);
            self.call.store(NONE, Ordering::Relaxed);
        }
        let limit = limit.and_then(|(after, source)| pack(after, source));
        let is_limited =
            limit.is_some_and(|limit| limit < self.call.fetch_min(limit, Ordering::Relaxed));
        Former {
            call,
            ours,
            is_limited,
        }
    }

    /// Ends a call. With `restore` the server's deadline that it had lifted is in force again, unless the
    /// application has set an earlier one. Returns whether it had lifted one.
    pub(super) fn end_call(&self, former: Former, restore: bool) -> bool {
        self.call.store(former.call, Ordering::Relaxed);
        let lifted = restore && former.ours != NONE;
        if lifted {
            self.ours.fetch_min(former.ours, Ordering::Relaxed);
        }
        lifted
    }

    /// Replaces the server's deadline by `next`, and removes the request's unless `keep_request`.
    #[inline]
    pub(super) fn restart(&self, next: Option<(Duration, DeadlineSource)>, keep_request: bool) {
        let packed = next.and_then(|(after, source)| pack(after, source));
        self.ours.store(packed.unwrap_or(NONE), Ordering::Relaxed);
        if !keep_request {
            self.request.store(NONE, Ordering::Relaxed);
        }
    }

    /// Removes all deadlines, between two requests.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.ours.set_mut(NONE);
        self.request.set_mut(NONE);
        self.call.set_mut(NONE);
    }

    /// The limit of the calls inside.
    pub(super) fn of_call(&self, start: Instant) -> Option<(Instant, DeadlineSource)> {
        unpack(self.call.load(Ordering::Relaxed), start)
    }

    /// Whether the request has a deadline.
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.ours.load(Ordering::Relaxed) != NONE || self.request.load(Ordering::Relaxed) != NONE
    }

    /// The deadline of a request that started at `start`, and its source.
    #[inline]
    pub(super) fn at(&self, start: Instant) -> Option<(Instant, DeadlineSource)> {
        let ours = self.ours.load(Ordering::Relaxed);
        unpack(ours.min(self.request.load(Ordering::Relaxed)), start)
    }
}

#[inline]
fn unpack(packed: u64, start: Instant) -> Option<(Instant, DeadlineSource)> {
    if packed == NONE {
        return None;
    }
    unpack_set(packed, start)
}

#[inline(never)]
fn unpack_set(packed: u64, start: Instant) -> Option<(Instant, DeadlineSource)> {
    let mask = (1_u64 << SOURCE_BITS) - 1;
    let source = DeadlineSource::from_code((packed & mask) as usize)?;
    // A time beyond the clock's range is no deadline.
    let at = start.checked_add(Duration::from_nanos(packed & !mask))?;
    Some((at, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Duration = Duration::from_secs(1);
    const TWO: Duration = Duration::from_secs(2);

    #[test]
    fn the_earlier_deadline_wins_in_both_orders() {
        let start = Instant::now();
        for (first, second) in [(ONE, TWO), (TWO, ONE)] {
            let deadline = Deadline::none();
            deadline.tighten(first, DeadlineSource::Layer);
            deadline.tighten(second, DeadlineSource::Layer);
            assert_eq!(
                deadline.at(start),
                Some((start + ONE, DeadlineSource::Layer))
            );
        }
    }

    #[test]
    fn the_source_belongs_to_the_deadline_that_won() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.tighten(TWO, DeadlineSource::Layer);
        deadline.tighten(ONE, DeadlineSource::Handler);
        let (_, source) = deadline.at(start).expect("set");
        assert_eq!(source, DeadlineSource::Handler);
    }

    #[test]
    fn a_deadline_of_the_request_is_neither_extended_nor_lifted() {
        let start = Instant::now();
        let request = Some((start + TWO, DeadlineSource::GrpcTimeout));
        let deadline = Deadline::none();
        deadline.tighten(ONE, DeadlineSource::Layer);
        deadline.tighten(TWO, DeadlineSource::GrpcTimeout);
        deadline.extend(3 * ONE, DeadlineSource::Handler);
        assert_eq!(deadline.at(start), request);
        deadline.lift();
        assert_eq!(deadline.at(start), request);
        deadline.restart(None, true);
        assert_eq!(deadline.at(start), request);
        deadline.restart(Some((TWO, DeadlineSource::BodyTimeout)), false);
        let body = Some((start + TWO, DeadlineSource::BodyTimeout));
        assert_eq!(deadline.at(start), body);
    }

    #[test]
    fn an_extension_never_makes_a_deadline_earlier_nor_sets_one() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.extend(ONE, DeadlineSource::Handler);
        assert_eq!(deadline.at(start), None);
        deadline.tighten(TWO, DeadlineSource::Layer);
        deadline.extend(ONE, DeadlineSource::Handler);
        let unchanged = Some((start + TWO, DeadlineSource::Layer));
        assert_eq!(deadline.at(start), unchanged);
        deadline.extend(3 * ONE, DeadlineSource::Handler);
        let extended = Some((start + 3 * ONE, DeadlineSource::Handler));
        assert_eq!(deadline.at(start), extended);
        deadline.extend(Duration::MAX, DeadlineSource::Handler);
        assert_eq!(deadline.at(start), None);
    }

    #[test]
    fn a_call_ends_by_its_own_limit_and_puts_the_former_ones_back() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.tighten(2 * TWO, DeadlineSource::Layer);
        let whole = deadline.at(start);
        let outer = deadline.begin_call(false, Some((TWO, DeadlineSource::Policy)));
        assert!(outer.is_limited);
        let of_outer = Some((start + TWO, DeadlineSource::Policy));
        // One that allows more, one that allows less, and one that lifts all others.
        for (lift, limit, is_limited, of_call) in [
            (false, 2 * TWO, false, of_outer),
            (
                false,
                ONE,
                true,
                Some((start + ONE, DeadlineSource::Policy)),
            ),
            (
                true,
                4 * TWO,
                true,
                Some((start + 4 * TWO, DeadlineSource::Policy)),
            ),
        ] {
            let inner = deadline.begin_call(lift, Some((limit, DeadlineSource::Policy)));
            assert_eq!(inner.is_limited, is_limited);
            assert_eq!(deadline.of_call(start), of_call);
            assert_eq!(deadline.at(start), whole.filter(|_| !lift));
            assert_eq!(deadline.end_call(inner, true), lift);
            assert_eq!(deadline.of_call(start), of_outer);
            assert_eq!(deadline.at(start), whole);
        }
        assert!(!deadline.end_call(outer, true));
        assert_eq!(deadline.of_call(start), None);
        // What the application set meanwhile stays if it is earlier, and nothing comes back after a head.
        let lifted = deadline.begin_call(true, None);
        deadline.tighten(ONE, DeadlineSource::Handler);
        assert!(deadline.end_call(lifted, true));
        let handler = Some((start + ONE, DeadlineSource::Handler));
        assert_eq!(deadline.at(start), handler);
        let lifted = deadline.begin_call(true, None);
        assert!(!deadline.end_call(lifted, false));
        assert_eq!(deadline.at(start), None);
    }

    #[test]
    fn a_bound_is_neither_extended_nor_lifted() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.bound(ONE, DeadlineSource::Layer);
        deadline.extend(TWO, DeadlineSource::Handler);
        deadline.lift();
        let bound = Some((start + ONE, DeadlineSource::Layer));
        assert_eq!(deadline.at(start), bound);
    }

    #[test]
    fn an_endless_timeout_is_no_deadline() {
        for endless in [Duration::MAX, Duration::from_nanos(u64::MAX)] {
            let deadline = Deadline::none();
            deadline.tighten(endless, DeadlineSource::Layer);
            assert_eq!(deadline.at(Instant::now()), None);
        }
    }

    #[test]
    fn a_zero_timeout_is_due_at_the_start() {
        let start = Instant::now();
        let deadline = Deadline::none();
        deadline.tighten(Duration::ZERO, DeadlineSource::Layer);
        assert_eq!(deadline.at(start), Some((start, DeadlineSource::Layer)));
    }

    #[test]
    fn rounding_never_makes_a_deadline_earlier() {
        let start = Instant::now();
        for nanos in [1, 15, 16, 17, 999_999_999] {
            let after = Duration::from_nanos(nanos);
            let deadline = Deadline::none();
            deadline.tighten(after, DeadlineSource::Layer);
            let (at, _) = deadline.at(start).expect("set");
            assert!(at >= start + after);
            assert!(at < start + after + Duration::from_nanos(16));
        }
    }
}
