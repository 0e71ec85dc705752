//! What a thread records.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    clock::ticks,
    event::{Event, Kind, Origin, Subject, pack, unpack},
    names::Cache,
    threads::{self, Thread},
};
use crate::{
    account::{aside, thread_bytes},
    sync::Arc,
};

/// Whether polls are recorded.
// std's and not loom's, here and below: the models do not record.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Ticks from which on a poll is slow.
static SLOW: AtomicU64 = AtomicU64::new(u64::MAX);

/// Polls inside of polls that are recorded.
const DEPTH: usize = 8;

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

struct Local {
    thread: Arc<Thread>,
    names: Cache,
    depth: usize,
    open: [Open; DEPTH],
}

/// A poll that runs.
#[derive(Clone, Copy, Default)]
struct Open {
    start: u64,
    bytes: u64,
    kind_and_bytes: u64,
    origin: u64,
}

/// Whether anything is recorded. One load.
#[inline]
pub(crate) fn is_on() -> bool {
    // Relaxed: what is recorded is ordered by the rings.
    IS_ON.load(Ordering::Relaxed)
}

pub(super) fn switch(on: bool) {
    IS_ON.store(on, Ordering::Relaxed);
}

pub(super) fn set_slow(ticks: u64) {
    SLOW.store(ticks, Ordering::Relaxed);
}

/// A poll, which ends by [`end`](Self::end). It is recorded if the recorder was on at its start.
#[derive(Debug)]
#[must_use]
pub(crate) struct Slice(bool);

impl Slice {
    /// Nothing.
    pub(crate) const fn none() -> Self {
        Self(false)
    }

    /// Begins a poll, before its account is entered.
    #[inline]
    pub(crate) fn begin<'a>(subject: impl FnOnce() -> Option<Subject<'a>>) -> Self {
        if !is_on() {
            return Self(false);
        }
        Self(subject().is_some_and(|subject| begin(&subject)))
    }

    /// Ends the poll, after its account was left. `subject` is asked again, since a route may become known in a
    /// poll.
    #[inline]
    pub(crate) fn end<'a>(&mut self, subject: impl FnOnce() -> Option<Subject<'a>>) {
        if std::mem::take(&mut self.0) {
            end(subject());
        }
    }
}

impl Local {
    fn origin(&mut self, subject: &Subject<'_>) -> u64 {
        let origin = Origin {
            // The low bits: a ring holds some seconds.
            request: subject.request as u32,
            route: self.names.number(subject.route),
            task: self.names.number(subject.task),
        };
        origin.pack()
    }
}

/// Calls `f` with what the thread records. Returns `None` if the thread records nothing: it is ending, or there
/// are too many.
#[inline]
fn with<R>(f: impl FnOnce(&mut Local) -> R) -> Option<R> {
    LOCAL
        .try_with(|local| {
            let mut local = local.try_borrow_mut().ok()?;
            let is_stale = |local: &Local| local.depth == 0 && !local.thread.is_current();
            if local.as_ref().is_none_or(is_stale) {
                *local = first();
            }
            local.as_mut().map(f)
        })
        .ok()
        .flatten()
}

/// Takes a ring. No request is charged for it.
#[cold]
#[inline(never)]
fn first() -> Option<Local> {
    aside(|| {
        Some(Local {
            thread: threads::join()?,
            names: Cache::new(),
            depth: 0,
            open: [Open::default(); DEPTH],
        })
    })
}

#[inline(never)]
fn begin(subject: &Subject<'_>) -> bool {
    with(|local| {
        let origin = local.origin(subject);
        let bytes = thread_bytes();
        let Some(open) = local.open.get_mut(local.depth) else {
            return false;
        };
        local.depth += 1;
        let kind_and_bytes = pack(subject.kind, bytes);
        let start = ticks();
        *open = Open {
            start,
            bytes,
            kind_and_bytes,
            origin,
        };
        local
            .thread
            .ring
            .set_current([start, kind_and_bytes, origin]);
        true
    })
    .unwrap_or(false)
}

#[inline(never)]
fn end(subject: Option<Subject<'_>>) {
    let slow = with(|local| {
        let depth = local.depth.checked_sub(1)?;
        let now = ticks();
        local.depth = depth;
        let open = local.open[depth];
        let (kind, _) = unpack(open.kind_and_bytes);
        let event = Event {
            start: open.start,
            duration: now.saturating_sub(open.start),
            kind,
            value: thread_bytes().wrapping_sub(open.bytes),
            origin: Origin::unpack(subject.map_or(open.origin, |subject| local.origin(&subject))),
        };
        local.thread.ring.push(event.pack());
        let outer = depth
            .checked_sub(1)
            .map_or(Open::default(), |outer| local.open[outer]);
        local
            .thread
            .ring
            .set_current([outer.start, outer.kind_and_bytes, outer.origin]);
        // Relaxed: a number of its own.
        let is_slow = event.duration >= SLOW.load(Ordering::Relaxed) && kind.may_starve();
        is_slow.then(|| (Arc::clone(&local.thread), event))
    });
    if let Some((thread, event)) = slow.flatten() {
        slow_poll(&thread, event);
    }
}

#[cold]
#[inline(never)]
fn slow_poll(thread: &Arc<Thread>, event: Event) {
    aside(|| super::incident::slow_poll(thread, event, false));
}

/// Records something that happens inside a poll of this thread.
#[cold]
#[inline(never)]
pub(crate) fn event(kind: Kind, value: u64) {
    if !is_on() {
        return;
    }
    with(|local| {
        let open = local
            .depth
            .checked_sub(1)
            .and_then(|depth| local.open.get(depth));
        let origin = Origin::unpack(open.map_or(0, |open| open.origin));
        let event = Event {
            start: ticks(),
            duration: 0,
            kind,
            value,
            origin,
        };
        local.thread.ring.push(event.pack());
    });
}

/// Records something that happens to a request, on any thread. Returns the event, and the thread that recorded it.
#[cold]
#[inline(never)]
pub(super) fn event_of(subject: &Subject<'_>, value: u64) -> Option<(Arc<Thread>, Event)> {
    with(|local| {
        let origin = Origin::unpack(local.origin(subject));
        let event = Event {
            start: ticks(),
            duration: 0,
            kind: subject.kind,
            value,
            origin,
        };
        local.thread.ring.push(event.pack());
        (Arc::clone(&local.thread), event)
    })
}
