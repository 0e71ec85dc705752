//! What exceeded a threshold, with the recording around it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant, SystemTime},
};

use super::{
    clock::{Anchor, Rate},
    event::{Event, Kind},
    snapshot::TraceSnapshot,
    threads::Thread,
};
use crate::housekeeping::Housekeeping;

/// Incidents that are kept, and recordings of them.
const KEPT: usize = 32;
const RECORDINGS: usize = 4;

/// A recording goes on for so long after an incident, and two are so far apart.
const AFTER: Duration = Duration::from_millis(100);
const APART: Duration = Duration::from_secs(1);

/// What a recording of an incident holds.
const SPAN: Duration = Duration::from_secs(2);
const EVENTS: usize = 20_000;

/// Why a recording was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IncidentKind {
    /// One poll took long: its thread polled nothing else meanwhile.
    SlowPoll,
    /// A request exceeded its deadline.
    Deadline,
    /// A request allocated many bytes.
    Bytes,
}

/// A request or a poll that exceeded a threshold of the recorder.
///
/// Returned by [`incidents`](super::incidents). `Display` is a sentence.
///
/// # Examples
///
/// See [`trace`](super).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Incident {
    /// Which threshold.
    pub kind: IncidentKind,
    /// The low 32 bits of [`RequestScope::id`](crate::RequestScope::id); zero for detached tasks.
    pub request: u32,
    /// The route of the request.
    pub route: Option<Arc<str>>,
    /// Where the task was started, or its name if it was detached; `None` for the request's own future.
    pub task: Option<Arc<str>>,
    /// The thread's name, and its number, which is the system's on Linux.
    pub thread: String,
    /// See [`thread`](Self::thread).
    pub thread_id: u64,
    /// How long the poll took, or takes so far; `None` of other kinds.
    pub duration: Option<Duration>,
    /// Heap bytes of the request; `None` of other kinds.
    pub bytes: Option<u64>,
    /// Whether the poll has not returned.
    pub running: bool,
    /// When it was noticed.
    pub at: SystemTime,
    /// Two seconds around it, at most 20 000 events of each thread. `None` until it is taken, and of older incidents.
    ///
    /// It is taken 0.1 s after the incident. Recordings are at least one second apart: incidents that are noticed
    /// before the next one is taken share it.
    pub trace: Option<Arc<TraceSnapshot>>,
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = &self.task {
            write!(f, "task {task} of ")?;
        }
        let route = self.route.as_deref().unwrap_or("no route");
        write!(f, "request {} ({route}) ", self.request)?;
        match (self.kind, self.duration, self.bytes) {
            (IncidentKind::SlowPoll, Some(duration), _) => {
                let (has, still) = match self.running {
                    true => ("has blocked", " so far"),
                    false => ("blocked", ""),
                };
                let (thread, id) = (&self.thread, self.thread_id);
                write!(
                    f,
                    "{has} thread {thread} ({id}) for {duration:.1?} in one poll{still}"
                )
            }
            (IncidentKind::Bytes, _, Some(bytes)) => write!(f, "allocated {bytes} bytes"),
            _ => f.write_str("exceeded its deadline"),
        }
    }
}

/// Thresholds of requests.
static DEADLINES: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicU64 = AtomicU64::new(u64::MAX);

struct Kept {
    incident: Incident,
    /// The start of the poll in ticks.
    start: u64,
    is_told: bool,
}

struct Incidents {
    kept: VecDeque<Kept>,
    /// From which ticks are time.
    from: Option<Anchor>,
    /// The next recording, or the last one.
    recording_at: Option<Instant>,
    is_scheduled: bool,
}

static INCIDENTS: Mutex<Incidents> = Mutex::new(Incidents {
    kept: VecDeque::new(),
    from: None,
    recording_at: None,
    is_scheduled: false,
});

fn with<R>(f: impl FnOnce(&mut Incidents) -> R) -> R {
    f(&mut INCIDENTS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Sets the thresholds of requests, and forgets earlier incidents.
pub(super) fn begin(from: Anchor, deadlines: bool, bytes: Option<u64>) {
    DEADLINES.store(deadlines, Ordering::Relaxed);
    BYTES.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    with(|incidents| {
        incidents.kept.clear();
        incidents.from = Some(from);
        incidents.recording_at = None;
    });
}

/// Returns the last 32 incidents of this recording, oldest first. The last four recordings are kept.
///
/// # Examples
///
/// See [`trace`](super).
#[must_use]
pub fn incidents() -> Vec<Incident> {
    with(|incidents| {
        incidents
            .kept
            .iter()
            .map(|kept| kept.incident.clone())
            .collect()
    })
}

/// A poll was slow, or is. It is told once, though its thread and the housekeeping both may tell it.
pub(super) fn slow_poll(thread: &Thread, event: Event, running: bool) {
    with(|incidents| {
        let Some(from) = incidents.from else {
            return;
        };
        // Under the lock, so that of two threads the second finds what the first has kept.
        let was_last = thread.told.swap(event.start, Ordering::Relaxed) == event.start;
        let rate = Rate::between(from, Anchor::now());
        let nanos = rate.nanos(event.end) - rate.nanos(event.start);
        let duration = Some(Duration::from_nanos(nanos.max(0).unsigned_abs()));
        // Not only the last one: a poll inside of this one may have been told since.
        if let Some(kept) = incidents.of_poll(thread, event.start) {
            // The housekeeping may have looked before the poll ended, and come later.
            kept.incident.duration = kept.incident.duration.max(duration);
            if !running {
                kept.incident.running = false;
                // It may have become known in the poll.
                kept.incident.route = event.origin.route().map(Into::into);
            }
        } else if !was_last {
            let mut incident = Incident::new(IncidentKind::SlowPoll, thread, &event);
            (incident.duration, incident.running) = (duration, running);
            incidents.add(incident, event.start);
        }
    });
}

/// Whether a request that exceeds its deadline is kept.
pub(super) fn keeps_deadlines() -> bool {
    DEADLINES.load(Ordering::Relaxed)
}

/// From how many bytes on a request is kept.
#[inline]
pub(super) fn most_bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// A request exceeded its deadline, or allocated so many bytes.
pub(super) fn request(kind: IncidentKind, thread: &Thread, event: &Event, bytes: Option<u64>) {
    let mut incident = Incident::new(kind, thread, event);
    incident.bytes = bytes;
    with(|incidents| incidents.add(incident, event.start));
}

impl Incident {
    fn new(kind: IncidentKind, thread: &Thread, event: &Event) -> Self {
        let task = match event.kind {
            Kind::Cancelled | Kind::Closed => None,
            _ => event.origin.task().map(Into::into),
        };
        Self {
            kind,
            request: event.origin.request(),
            route: event.origin.route().map(Into::into),
            task,
            thread: thread.name.clone(),
            thread_id: thread.id,
            duration: None,
            bytes: None,
            running: false,
            at: SystemTime::now(),
            trace: None,
        }
    }
}

impl Incidents {
    /// What is kept of the poll of a thread that began then.
    fn of_poll(&mut self, thread: &Thread, start: u64) -> Option<&mut Kept> {
        let of_poll =
            |kept: &&mut Kept| kept.start == start && kept.incident.thread_id == thread.id;
        self.kept.iter_mut().rev().find(of_poll)
    }

    fn add(&mut self, incident: Incident, start: u64) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept {
            incident,
            start,
            is_told: false,
        });
        if self.is_scheduled {
            return;
        }
        // On the thread for code of users: copying takes a while, and so may what listens to events.
        let hooks = Housekeeping::Process.hooks();
        let now = hooks.now();
        let earliest = self.recording_at.map_or(now, |last| last + APART);
        let at = earliest.max(now + AFTER);
        self.recording_at = Some(at);
        self.is_scheduled = true;
        hooks.schedule(now, at, &Waker::from(Arc::new(Keep)));
    }
}

/// Keeps a recording for the incidents that have none.
struct Keep;

impl Wake for Keep {
    fn wake(self: Arc<Self>) {
        let Some(from) = with(|incidents| {
            incidents.is_scheduled = false;
            incidents.from
        }) else {
            return;
        };
        let mut trace = TraceSnapshot::take(from);
        trace.keep(SPAN + AFTER);
        trace.keep_most(EVENTS);
        let trace = Arc::new(trace);
        let new: Vec<_> = with(|incidents| {
            let mut new = Vec::new();
            for kept in incidents.kept.iter_mut().filter(|kept| !kept.is_told) {
                kept.is_told = true;
                kept.incident.trace = Some(Arc::clone(&trace));
                new.push(kept.incident.clone());
            }
            incidents.forget_old_recordings();
            new
        });
        for incident in &new {
            tell(incident);
        }
    }
}

impl Incidents {
    fn forget_old_recordings(&mut self) {
        let mut recordings: Vec<Arc<TraceSnapshot>> = Vec::new();
        for kept in self.kept.iter_mut().rev() {
            let Some(trace) = &kept.incident.trace else {
                continue;
            };
            if recordings.iter().any(|known| Arc::ptr_eq(known, trace)) {
                continue;
            }
            if recordings.len() == RECORDINGS {
                kept.incident.trace = None;
            } else {
                recordings.push(Arc::clone(trace));
            }
        }
    }
}

#[cfg(feature = "tracing")]
fn tell(incident: &Incident) {
    tracing::warn!(
        target: "tower_memory",
        request = incident.request,
        route = incident.route.as_deref(),
        task = incident.task.as_deref(),
        "{incident}"
    );
}

#[cfg(not(feature = "tracing"))]
fn tell(_: &Incident) {}
