use std::{fmt, sync::Arc, time::Duration};

use super::{
    clock::{Anchor, Rate},
    event::{Event, Origin, unpack},
    threads::{self, Thread},
};
use crate::account::is_installed;

/// The events of all threads that were recorded lately.
///
/// Returned by [`snapshot`](super::snapshot()). [`write_json`](Self::write_json) writes it for Perfetto.
///
/// # Examples
///
/// See [`trace`](super).
#[derive(Clone)]
pub struct TraceSnapshot {
    pub(super) threads: Vec<ThreadEvents>,
    pub(super) rate: Rate,
    pub(super) now: u64,
    pub(super) counts_bytes: bool,
    missed: u64,
}

#[derive(Clone)]
pub(super) struct ThreadEvents {
    pub(super) name: String,
    pub(super) id: u64,
    /// By start; one that contains another comes first.
    pub(super) events: Vec<Event>,
    /// The innermost poll that runs.
    pub(super) running: Option<Event>,
    lost: u64,
}

/// One poll of a request, its body or a task.
///
/// # Examples
///
/// See [`trace`](super).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Poll {
    /// `request`, `body`, `task`, `closure` or `detached`.
    pub kind: &'static str,
    /// The low 32 bits of [`RequestScope::id`](crate::RequestScope::id); zero for detached tasks.
    pub request: u32,
    /// The route of the request; `{other}` beyond the first 1022 labels of the process.
    pub route: Option<Arc<str>>,
    /// Where the task was started, or its name if it was detached.
    pub task: Option<Arc<str>>,
    /// The thread's name.
    pub thread: String,
    /// The thread's number, on Linux that of the system.
    pub thread_id: u64,
    /// Time from its start to the snapshot.
    pub started_ago: Duration,
    /// How long it took, or takes so far.
    pub duration: Duration,
    /// Heap bytes allocated; `None` without a [`TrackingAllocator`](crate::TrackingAllocator), and of one that
    /// runs.
    pub bytes: Option<u64>,
    /// Whether it had not returned.
    pub running: bool,
}

impl TraceSnapshot {
    pub(super) fn take(from: Anchor) -> Self {
        let (all, missed) = threads::all();
        let threads = all
            .iter()
            .map(|thread| ThreadEvents::read(thread))
            .collect();
        // After the rings were read, so no event is in the future.
        let now = Anchor::now();
        Self {
            threads,
            rate: Rate::between(from, now),
            now: now.ticks,
            counts_bytes: is_installed(),
            missed,
        }
    }

    /// Keeps what ended, or runs, in the `last` part of the time before the snapshot.
    pub(crate) fn keep(&mut self, last: Duration) {
        let since = self.now.saturating_sub(self.rate.ticks(last));
        for thread in &mut self.threads {
            let is_late = |event: &Event| event.end >= since;
            thread.events.retain(is_late);
        }
    }

    /// Keeps the `most` events of each thread that ended last.
    pub(super) fn keep_most(&mut self, most: usize) {
        for thread in &mut self.threads {
            let surplus = thread.events.len().saturating_sub(most);
            thread.events.drain(..surplus);
        }
    }

    /// Iterates over the polls of all threads, by thread and start. One that runs comes last.
    pub fn polls(&self) -> impl Iterator<Item = Poll> {
        self.threads.iter().flat_map(move |thread| {
            let ended = thread.events.iter().filter(|event| event.kind.is_poll());
            let ended = ended.map(move |event| self.poll(thread, event, false));
            let running = thread.running.iter();
            ended.chain(running.map(move |event| self.poll(thread, event, true)))
        })
    }

    /// Returns how many events were overwritten while they were read, and how often a thread could not record
    /// since 128 others did.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.threads.iter().map(|thread| thread.lost).sum::<u64>() + self.missed
    }

    fn time(&self, ticks: u64) -> Duration {
        let nanos = self.rate.nanos(ticks).max(0);
        Duration::from_nanos(nanos.unsigned_abs())
    }

    fn poll(&self, thread: &ThreadEvents, event: &Event, running: bool) -> Poll {
        let start = self.time(event.start);
        let end = self.time(event.end);
        Poll {
            kind: event.kind.as_str(),
            request: event.origin.request(),
            route: event.origin.route().map(Into::into),
            task: event.origin.task().map(Into::into),
            thread: thread.name.clone(),
            thread_id: thread.id,
            started_ago: self.time(self.now).saturating_sub(start),
            duration: end.saturating_sub(start),
            bytes: (self.counts_bytes && !running).then_some(event.value),
            running,
        }
    }
}

impl ThreadEvents {
    fn read(thread: &Thread) -> Self {
        let read = thread.ring.read();
        let mut events: Vec<_> = read.events.into_iter().map(Event::unpack).collect();
        // The ring has them in the order of their ends.
        events.sort_by_key(|event| (event.start, std::cmp::Reverse(event.end)));
        Self {
            name: thread.name.clone(),
            id: thread.id,
            events,
            running: running(thread),
            lost: read.lost,
        }
    }
}

/// The poll that a thread is in, up to now.
pub(super) fn running(thread: &Thread) -> Option<Event> {
    let running = thread.ring.running()?;
    let (kind, _) = unpack(running.what);
    Some(Event {
        start: running.start,
        end: super::clock::ticks().max(running.start),
        kind,
        value: 0,
        origin: Origin(running.origin),
    })
}

impl fmt::Debug for TraceSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events: usize = self.threads.iter().map(|thread| thread.events.len()).sum();
        f.debug_struct("TraceSnapshot")
            .field("threads", &self.threads.len())
            .field("events", &events)
            .finish_non_exhaustive()
    }
}
