//! What a thread records.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    clock::ticks,
    event::{Event, Kind, Origin, ended, pack},
    ring::{RUNNING, Running, Words},
    threads::{self, Thread},
};
use crate::{
    account::{aside, thread_bytes},
    sync::Arc,
};

/// The number of the recording that runs, or zero.
// std's and not loom's, here and below: the models do not record.
static RECORDING: AtomicU64 = AtomicU64::new(OFF);
pub(super) const OFF: u64 = 0;

/// Ticks from which on a poll is slow.
static SLOW: AtomicU64 = AtomicU64::new(u64::MAX);

/// Polls inside of polls that are recorded.
const DEPTH: usize = 8;

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

struct Local {
    thread: Arc<Thread>,
    recording: u64,
    depth: usize,
    open: [Open; DEPTH],
}

/// A poll that runs.
#[derive(Clone, Copy)]
struct Open {
    running: Running,
    /// What the thread had allocated at its start.
    bytes: u64,
}

/// Whether anything is recorded. One load.
#[inline]
pub(crate) fn is_on() -> bool {
    recording() != OFF
}

#[inline]
fn recording() -> u64 {
    // Relaxed: what is recorded is ordered by the rings.
    RECORDING.load(Ordering::Relaxed)
}

pub(super) fn switch(recording: u64) {
    RECORDING.store(recording, Ordering::Relaxed);
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
    #[inline]
    pub(crate) const fn none() -> Self {
        Self(false)
    }

    /// Begins a poll, before its account is entered.
    #[inline]
    pub(crate) fn begin(subject: impl FnOnce() -> Option<(Kind, Origin)>) -> Self {
        let recording = recording();
        if recording == OFF {
            return Self(false);
        }
        Self(begin(recording, subject))
    }

    /// Ends the poll, after its account was left. `origin` is asked again, since a route may become known in a
    /// poll.
    #[inline]
    pub(crate) fn end(&mut self, origin: impl FnOnce() -> Option<Origin>) {
        if std::mem::take(&mut self.0) {
            end(origin);
        }
    }
}

/// Calls `f` with what the thread records. Returns `None` if the thread records nothing: it is ending, or there
/// are too many.
#[inline]
fn with<R>(recording: u64, f: impl FnOnce(&mut Local) -> R) -> Option<R> {
    LOCAL
        .try_with(|local| {
            let mut local = local.try_borrow_mut().ok()?;
            // A poll ends in the ring it has begun in.
            let is_stale = |local: &Local| local.recording != recording && local.depth == 0;
            if local.as_ref().is_none_or(is_stale) {
                take_ring(&mut local, recording);
            }
            local.as_mut().map(f)
        })
        .ok()
        .flatten()
}

/// Takes a ring. No request is charged for it.
#[cold]
#[inline(never)]
fn take_ring(local: &mut Option<Local>, recording: u64) {
    let none = Open {
        running: Running::default(),
        bytes: 0,
    };
    aside(|| {
        *local = threads::join(recording).map(|thread| Local {
            thread,
            recording,
            depth: 0,
            open: [none; DEPTH],
        });
    });
}

/// Begins a poll. It is apart, with what it asks for, so that a poll that is not recorded is short.
#[inline(never)]
fn begin(recording: u64, subject: impl FnOnce() -> Option<(Kind, Origin)>) -> bool {
    let Some((kind, origin)) = subject() else {
        return false;
    };
    with(recording, |local| {
        let Some(open) = local.open.get_mut(local.depth) else {
            return false;
        };
        local.depth += 1;
        let bytes = thread_bytes();
        let running = Running {
            start: ticks(),
            // No two polls that are inside of one another have the same word.
            what: pack(kind, local.depth as u64) | RUNNING,
            origin: origin.0,
        };
        *open = Open { running, bytes };
        local.thread.ring.begin(&running);
        true
    })
    .unwrap_or(false)
}

#[inline(never)]
fn end(origin: impl FnOnce() -> Option<Origin>) {
    let origin = origin();
    let now = ticks();
    let _ = LOCAL.try_with(|local| {
        if let Ok(mut local) = local.try_borrow_mut() {
            if let Some(local) = local.as_mut() {
                local.end(now, origin);
            }
        }
    });
}

impl Local {
    #[inline]
    fn end(&mut self, now: u64, origin: Option<Origin>) {
        let Some(depth) = self.depth.checked_sub(1) else {
            return;
        };
        let Some(Open { running, bytes }) = self.open.get(depth).copied() else {
            return;
        };
        self.depth = depth;
        let words = [
            running.start,
            now,
            ended(running.what, thread_bytes().wrapping_sub(bytes)),
            origin.map_or(running.origin, |Origin(origin)| origin),
        ];
        self.thread.ring.push(words);
        self.resume();
        // Relaxed: a number of its own.
        if now.saturating_sub(running.start) >= SLOW.load(Ordering::Relaxed) {
            slow_poll(&self.thread, words);
        }
    }

    /// Adds what happened at a moment.
    fn mark(&self, event: Event) {
        self.thread.ring.push(event.pack());
        self.resume();
    }

    /// The innermost poll goes on.
    #[inline]
    fn resume(&self) {
        if let Some(open) = self.innermost() {
            self.thread.ring.begin(&open.running);
        }
    }

    #[inline]
    fn innermost(&self) -> Option<&Open> {
        self.open.get(self.depth.checked_sub(1)?)
    }
}

#[cold]
#[inline(never)]
fn slow_poll(thread: &Thread, words: Words) {
    let event = Event::unpack(words);
    if event.kind.may_starve() {
        aside(|| super::incident::slow_poll(thread, event, false));
    }
}

/// Records something that happens inside a poll of this thread.
#[cold]
#[inline(never)]
pub(crate) fn event(kind: Kind, value: u64) {
    let recording = recording();
    if recording == OFF {
        return;
    }
    with(recording, |local| {
        let origin = local.innermost().map_or(0, |open| open.running.origin);
        local.mark(Event::mark(kind, ticks(), value, Origin(origin)));
    });
}

/// Records something that happens to a request, on any thread. Returns the event, and the thread that recorded it.
#[cold]
#[inline(never)]
pub(super) fn event_of(kind: Kind, origin: Origin, value: u64) -> Option<(Arc<Thread>, Event)> {
    let recording = recording();
    if recording == OFF {
        return None;
    }
    with(recording, |local| {
        let event = Event::mark(kind, ticks(), value, origin);
        local.mark(event);
        (Arc::clone(&local.thread), event)
    })
}
