use std::{
    fmt,
    task::{Wake, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;

use super::{
    report::TaskReport,
    supervision::{Supervised, Supervision},
};
use crate::{
    counted::Counted,
    housekeeping::Housekeeping,
    slab::{Key, KeySlot},
    sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering, lock},
};

/// A moment that has not been recorded.
const NEVER: u64 = u64::MAX;

/// Maximum number of tasks that a request's report lists.
const MAX_NAMED: usize = 64;

// `ScopeReport::overruns` states this limit.
const _: () = assert!(MAX_NAMED == 64);

/// State shared by the tasks of one request, made when the first of them is started.
///
/// # Invariants
///
/// 1. A thread that makes the group, or starts a task, then reads the request's state by a
///    read-modify-write, and a thread that changes that state looks for the group and its tasks afterwards.
///    So of "task started" and "request ended" (or "cancelled") the later one sees the earlier, and records
///    the moment here.
/// 2. A task of a cancelled request records its end before it lets the scope close, so the scope reads
///    the last end of all.
/// 3. A task that waits has its waker listed, and looks afterwards whether its request is cancelled. A
///    thread that cancels takes the wakers afterwards, under the same lock. So of "listed" and
///    "cancelled" the later one sees the earlier: the task is woken, or goes on by itself.
/// 4. A group is listed as a dependent of the group of the request that has sent its own, and its thread
///    then reads that request's state by a read-modify-write. So 1 and 3 hold for that request, too.
pub(crate) struct Group<T> {
    start: Instant,
    alive: Supervision<T>,
    /// Moments, in nanoseconds since the start.
    cancelled: AtomicU64,
    ended: AtomicU64,
    last_end: AtomicU64,
    spawned: AtomicUsize,
    aborted: AtomicUsize,
    given_up: AtomicUsize,
    overruns: Mutex<Vec<TaskReport>>,
    /// The groups of requests that the request has sent. Made with the first.
    dependents: OnceLock<Mutex<Slab<Arc<Self>>>>,
    /// Its place among the dependents of another group.
    place: AtomicUsize,
    /// Whether it is in the layer's list of what waits, and where.
    is_listed: AtomicBool,
    listed_at: KeySlot,
}

impl<T> Group<T> {
    /// For no request yet.
    #[cold]
    pub(super) fn unused(start: Instant) -> Self {
        Self {
            start,
            alive: Supervision::new(),
            cancelled: AtomicU64::new(NEVER),
            ended: AtomicU64::new(NEVER),
            last_end: AtomicU64::new(NEVER),
            spawned: AtomicUsize::new(0),
            aborted: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            overruns: Mutex::new(Vec::new()),
            dependents: OnceLock::new(),
            place: AtomicUsize::new(0),
            is_listed: AtomicBool::new(false),
            listed_at: KeySlot::empty(),
        }
    }

    /// Begins for a request, without tasks.
    pub(super) fn begin(&mut self, start: Instant, grace: Duration, housekeeping: Housekeeping) {
        self.start = start;
        self.alive.begin(grace, housekeeping);
    }

    pub(super) fn reset(&mut self) {
        // Relaxed: `&mut` excludes other threads.
        for moment in [&self.cancelled, &self.ended, &self.last_end] {
            moment.store(NEVER, Ordering::Relaxed);
        }
        for count in [&self.spawned, &self.aborted, &self.given_up] {
            count.store(0, Ordering::Relaxed);
        }
        self.alive.reset();
        *lock(&self.overruns) = Vec::new();
        self.dependents.take();
        self.is_listed.store(false, Ordering::Relaxed);
        self.listed_at.take();
    }
}

impl<T: Supervised + 'static> Group<T> {
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos())
            .unwrap_or(NEVER)
            .min(NEVER - 1)
    }

    /// Records a moment, if it was not recorded before.
    fn record(&self, moment: &AtomicU64, at: Instant) {
        // Release: `ended` acquires.
        let _ =
            moment.compare_exchange(NEVER, self.nanos(at), Ordering::Release, Ordering::Relaxed);
    }

    /// The request was cancelled. The tasks that wait are not woken yet.
    pub(crate) fn request_cancelled(&self, at: Instant) {
        self.record(&self.cancelled, at);
    }

    /// Has `waker` woken when the request is cancelled, for what is no task of it, and returns its number. The
    /// caller looks afterwards whether it is cancelled (invariants 1 and 3).
    pub(crate) fn wait(&self, waker: &Waker) -> usize {
        self.alive.wait(waker)
    }

    /// As [`wait`](Self::wait), for the task, or what waits, of this number.
    pub(crate) fn watch(&self, index: usize, waker: &Waker) {
        self.alive.watch(index, waker);
    }

    /// Whether the calling thread is the one that lists the group for the layer's shutdown. A thread that is not
    /// may wait before the other has listed it: that one looks for a shutdown afterwards and, if one has begun,
    /// cancels the request, which wakes all that wait.
    pub(crate) fn list(&self) -> bool {
        // Relaxed, as the place, which the thread that releases the scope reads: that happens after.
        !self.is_listed.load(Ordering::Relaxed) && !self.is_listed.swap(true, Ordering::Relaxed)
    }

    /// The place in that list.
    pub(crate) fn listed_at(&self, key: Key) {
        self.listed_at.set(key);
    }

    /// The place in that list, if the group is in it.
    pub(crate) fn listed(&self) -> Option<Key> {
        self.listed_at.get()
    }

    /// Wakes the tasks of a request that is cancelled, and what waits for that.
    pub(crate) fn wake_tasks(&self) {
        self.alive.wake();
    }

    /// Does the same for the requests that the request has sent. Returns the number of these.
    pub(crate) fn wake_dependents(&self) -> usize {
        let Some(dependents) = self.dependents.get() else {
            return 0;
        };
        // Not under the lock, since waking may call any code.
        let dependents: Vec<_> = lock(dependents)
            .iter()
            .map(|(_, group)| Arc::clone(group))
            .collect();
        for group in &dependents {
            group.wake_tasks();
            group.wake_dependents();
        }
        dependents.len()
    }

    /// Adds the group of a request that this one's has sent (invariant 4).
    pub(crate) fn add_dependent(&self, group: &Arc<Self>) {
        let dependents = self.dependents.get_or_init(|| Mutex::new(Slab::new()));
        let place = lock(dependents).insert(Arc::clone(group));
        // Relaxed: read by the thread that releases the dependent's scope, which happens after.
        group.place.store(place, Ordering::Relaxed);
    }

    /// Removes a dependent.
    pub(crate) fn remove_dependent(&self, group: &Self) {
        if let Some(dependents) = self.dependents.get() {
            let place = group.place.load(Ordering::Relaxed);
            let removed = lock(dependents).try_remove(place);
            drop(removed);
        }
    }

    /// The request's response is over, and there is no task.
    pub(crate) fn request_closed(&self, at: Instant) {
        self.record(&self.ended, at);
    }

    /// The request's response is over. Tasks that are alive are supervised from now on.
    pub(crate) fn request_ended(self: &Arc<Self>, at: Instant) {
        self.record(&self.ended, at);
        self.alive.ended(|| Waker::from(Arc::clone(self)));
    }

    /// When the request ended, if it has.
    pub(super) fn ended(&self) -> Option<Instant> {
        // Acquire: see `record`.
        match self.ended.load(Ordering::Acquire) {
            NEVER => None,
            nanos => self.start.checked_add(Duration::from_nanos(nanos)),
        }
    }

    /// Adds a task that is alive, and returns its number.
    pub(crate) fn add(self: &Arc<Self>, task: Counted<T>) -> usize {
        self.alive.add(task, || Waker::from(Arc::clone(self)))
    }

    /// Removes a task that has ended, or what waits no more.
    pub(crate) fn remove(&self, index: usize) {
        self.alive.remove(index);
    }

    pub(crate) fn task_started(&self) {
        // Relaxed, as all counts: figures. The report reads them after the scope has closed, which
        // orders them.
        self.spawned.fetch_add(1, Ordering::Relaxed);
    }

    /// A task of the cancelled request ended.
    pub(crate) fn task_ended(&self, at: Instant) {
        let at = self.nanos(at);
        let later = |last| (last == NEVER || last < at).then_some(at);
        // Relaxed: invariant 2, ordered by the lifecycle's word.
        let _ = self
            .last_end
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Time from the cancellation to the end of the last task, once the scope has closed. `None` if
    /// there was no task to cancel, or one still runs.
    pub(crate) fn cancel_latency(&self) -> Option<Duration> {
        if self.given_up.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let cancelled = self.cancelled.load(Ordering::Acquire);
        let last = self.last_end.load(Ordering::Relaxed);
        if cancelled == NEVER || last == NEVER {
            return None;
        }
        last.checked_sub(cancelled).map(Duration::from_nanos)
    }

    /// A task still ran when its grace period was over.
    pub(super) fn overran(&self, report: TaskReport, given_up: bool) {
        let count = if given_up {
            &self.given_up
        } else {
            &self.aborted
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut overruns = lock(&self.overruns);
        if overruns.len() < MAX_NAMED {
            overruns.push(report);
        }
    }

    /// Tasks started, aborted and given up.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [&self.spawned, &self.aborted, &self.given_up].map(|count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn overruns(&self) -> Vec<TaskReport> {
        lock(&self.overruns).clone()
    }

    #[cfg(all(test, tower_memory_loom))]
    pub(crate) fn is_told(&self) -> bool {
        self.ended().is_some() && self.cancelled.load(Ordering::Acquire) != NEVER
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("alive", &self.alive)
            .finish_non_exhaustive()
    }
}

impl<T: Supervised + 'static> Wake for Group<T> {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        self.alive.look(&waker);
    }
}
