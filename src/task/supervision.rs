//! Wakes the tasks of requests that are cancelled, and gives up those that outlive their grace period.
//!
//! Most tasks end themselves. This is for those that block their thread and cannot. A request that
//! ends while tasks are alive is scheduled for the end of its grace period, and is taken off when its
//! last task ends. So the cost is that of ended requests with tasks, whatever is open besides.

use std::{
    fmt,
    sync::atomic::Ordering,
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    counted::Counted,
    housekeeping::{Housekeeping, Key},
    sync::{AtomicUsize, Mutex, lock},
};

/// Time between two looks at a task that is in the middle of a poll.
pub(super) const RECHECK: Duration = Duration::from_millis(50);

/// Tasks, and others that wait, that need no allocation.
const FEW: usize = 2;

/// Room for tasks that a request keeps when they have ended.
const KEPT: usize = 64;

/// Room that it leaves to the next request.
const LEFT: usize = 8;

/// A task that is looked at once its grace period is over.
pub(crate) trait Supervised: Send + Sync {
    /// Whether the request's scope no longer waits for it.
    fn is_released(&self) -> bool;

    /// Looks at a task whose grace period is over. Returns after which time to look again, if at all.
    fn overdue(&self) -> Option<Duration>;
}

/// The tasks of one request that are alive.
pub(crate) struct Supervision<T> {
    grace: Duration,
    housekeeping: Housekeeping,
    alive: Mutex<Alive<T>>,
    /// Looks at tasks so far.
    looks: AtomicUsize,
}

struct Alive<T> {
    /// Most requests have few tasks.
    few: [Option<Entry<T>>; FEW],
    more: Slab<Entry<T>>,
    /// Entries that are due at some time, so that the end of a task walks over no others.
    due: usize,
    /// The request has ended, so tasks that are added from now on are looked after as well.
    ended: bool,
    /// The next look.
    scheduled: Option<Key>,
}

struct Entry<T> {
    /// `None` for what waits for the request's cancellation and is no task of it.
    task: Option<Counted<T>>,
    /// When to look at the task, if at all.
    due: Option<Instant>,
    /// Wakes what waits when the request is cancelled.
    waker: Option<Waker>,
}

impl<T> Default for Alive<T> {
    fn default() -> Self {
        Self {
            few: [const { None }; FEW],
            more: Slab::new(),
            due: 0,
            ended: false,
            scheduled: None,
        }
    }
}

impl<T> Alive<T> {
    /// The entries with their numbers.
    fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Entry<T>)> {
        let few = self.few.iter_mut().enumerate();
        let more = self
            .more
            .iter_mut()
            .map(|(index, entry)| (FEW + index, entry));
        few.filter_map(|(index, entry)| Some((index, entry.as_mut()?)))
            .chain(more)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Entry<T>> {
        match self.few.get_mut(index) {
            Some(slot) => slot.as_mut(),
            None => self.more.get_mut(index - FEW),
        }
    }

    /// When to look next.
    fn next(&mut self) -> Option<Instant> {
        self.iter_mut().filter_map(|(_, entry)| entry.due).min()
    }

    fn add(&mut self, entry: Entry<T>) -> usize {
        self.due += usize::from(entry.due.is_some());
        match self.few.iter().position(Option::is_none) {
            Some(index) => {
                self.few[index] = Some(entry);
                index
            }
            None => FEW + self.more.insert(entry),
        }
    }

    fn remove(&mut self, index: usize) -> Option<Entry<T>> {
        let entry = match self.few.get_mut(index) {
            Some(slot) => slot.take(),
            None => self.more.try_remove(index - FEW),
        }?;
        self.due -= usize::from(entry.due.is_some());
        if self.more.is_empty() && self.more.capacity() > KEPT {
            // A walk takes as long as there were entries at once.
            self.more = Slab::new();
        }
        Some(entry)
    }

    /// The next look, if no entry is due any more.
    fn take_idle(&mut self) -> Option<Key> {
        match self.due {
            0 => self.scheduled.take(),
            _ => None,
        }
    }
}

impl<T> Supervision<T> {
    /// For no request yet.
    pub(super) fn new() -> Self {
        Self {
            grace: Duration::ZERO,
            housekeeping: Housekeeping::Process,
            alive: Mutex::default(),
            looks: AtomicUsize::new(0),
        }
    }

    /// Begins for a request, without tasks.
    pub(super) fn begin(&mut self, grace: Duration, housekeeping: Housekeeping) {
        self.grace = grace;
        self.housekeeping = housekeeping;
    }

    /// Begins anew, when all tasks have ended.
    pub(super) fn reset(&mut self) {
        let alive = &mut *lock(&self.alive);
        alive.few = [const { None }; FEW];
        if alive.more.capacity() > LEFT {
            alive.more = Slab::new();
        }
        alive.due = 0;
        alive.ended = false;
        alive.scheduled = None;
    }
}

impl<T: Supervised> Supervision<T> {
    /// Adds a task, and returns its number. See [`ended`](Self::ended) for `waker`.
    pub(super) fn add(&self, task: Counted<T>, waker: impl FnOnce() -> Waker) -> usize {
        let alive = &mut *lock(&self.alive);
        let mut entry = Entry {
            task: Some(task),
            due: None,
            waker: None,
        };
        if !alive.ended {
            return alive.add(entry);
        }
        let now = self.housekeeping.now();
        entry.due = now.checked_add(self.grace);
        let index = alive.add(entry);
        self.schedule(alive, now, waker);
        index
    }

    /// Has `waker` woken at the next [`wake`](Self::wake), for what is no task, and returns its number.
    pub(super) fn wait(&self, waker: &Waker) -> usize {
        let waker = waker.clone();
        lock(&self.alive).add(Entry {
            task: None,
            due: None,
            waker: Some(waker),
        })
    }

    /// Has `waker` woken at the next [`wake`](Self::wake), for the entry of this number.
    pub(super) fn watch(&self, index: usize, waker: &Waker) {
        // Cloned and dropped outside of the lock, since that may call any code.
        let mut waker = Some(waker.clone());
        if let Some(entry) = lock(&self.alive).get_mut(index) {
            std::mem::swap(&mut entry.waker, &mut waker);
        }
        drop(waker);
    }

    /// Wakes what watches or waits. Each has to watch again.
    pub(super) fn wake(&self) {
        // Not under the lock, since waking may call any code.
        let (few, more) = {
            let alive = &mut *lock(&self.alive);
            let take = |entry: &mut Entry<T>| entry.waker.take();
            let few = alive
                .few
                .each_mut()
                .map(|slot| slot.as_mut().and_then(take));
            let more = alive.more.iter_mut().filter_map(|(_, entry)| take(entry));
            (few, more.collect::<Vec<_>>())
        };
        for waker in few.into_iter().flatten().chain(more) {
            waker.wake();
        }
    }

    /// Removes a task that has ended, or what waits no more.
    pub(super) fn remove(&self, index: usize) {
        let mut alive = lock(&self.alive);
        let entry = alive.remove(index);
        let key = alive.take_idle();
        drop(alive);
        drop(entry);
        if let Some(key) = key {
            self.housekeeping.cancel(key);
        }
    }

    /// The request has ended: looks at its tasks when their grace period is over.
    ///
    /// `waker` makes a waker that calls [`look`](Self::look).
    pub(super) fn ended(&self, waker: impl FnOnce() -> Waker) {
        let alive = &mut *lock(&self.alive);
        if std::mem::replace(&mut alive.ended, true) {
            return;
        }
        let now = self.housekeeping.now();
        let due = now.checked_add(self.grace);
        let mut count = 0;
        for (_, entry) in alive.iter_mut() {
            if entry.task.is_some() {
                entry.due = due;
                count += usize::from(due.is_some());
            }
        }
        alive.due = count;
        self.schedule(alive, now, waker);
    }

    /// Schedules the next look, unless one is scheduled.
    fn schedule(&self, alive: &mut Alive<T>, now: Instant, waker: impl FnOnce() -> Waker) {
        if alive.scheduled.is_none() {
            let at = alive.next();
            alive.scheduled = at.map(|at| self.housekeeping.schedule(now, at, &waker()));
        }
    }

    /// Looks at the tasks whose grace period is over.
    pub(super) fn look(&self, waker: &Waker) {
        let now = self.housekeeping.now();
        let mut looked_at = Vec::new();
        {
            let mut alive = lock(&self.alive);
            alive.scheduled = None;
            let mut count = 0;
            for (index, entry) in alive.iter_mut() {
                let Some(task) = &entry.task else {
                    continue;
                };
                if task.is_released() {
                    entry.due = None;
                } else if entry.due.is_some_and(|due| due <= now) {
                    // Set before the look: observers run in there, and may panic.
                    entry.due = now.checked_add(RECHECK);
                    looked_at.push((index, task.clone()));
                }
                count += usize::from(entry.due.is_some());
            }
            alive.due = count;
            self.schedule(&mut alive, now, || waker.clone());
        }
        // Relaxed: a figure.
        self.looks.fetch_add(looked_at.len(), Ordering::Relaxed);
        let again: Vec<_> = looked_at.iter().map(|(_, task)| task.overdue()).collect();
        let mut alive = lock(&self.alive);
        for ((index, task), again) in looked_at.iter().zip(again) {
            let due = again.and_then(|after| now.checked_add(after));
            let entry = alive.get_mut(*index);
            // Another task may have taken the place.
            let is_it = |found: &Counted<T>| found.is_same(task);
            let Some(entry) = entry.filter(|entry| entry.task.as_ref().is_some_and(is_it)) else {
                continue;
            };
            let was_due = std::mem::replace(&mut entry.due, due).is_some();
            alive.due += usize::from(due.is_some());
            alive.due -= usize::from(was_due);
        }
        let key = alive.scheduled.take();
        self.schedule(&mut alive, now, || waker.clone());
        drop(alive);
        drop(looked_at);
        if let Some(key) = key {
            self.housekeeping.cancel(key);
        }
    }
}

impl<T> fmt::Debug for Supervision<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervision")
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{ops::Deref, sync::atomic::AtomicBool, task::Wake};

    use super::*;
    use crate::{housekeeping::ManualClock, sync::Arc};

    const GRACE: Duration = Duration::from_secs(5);

    /// A task that blocks its thread, and is given up at the second look.
    #[derive(Default)]
    struct Blocking {
        looks: AtomicUsize,
        released: AtomicBool,
    }

    impl Supervised for Blocking {
        fn is_released(&self) -> bool {
            self.released.load(Ordering::Relaxed)
        }

        fn overdue(&self) -> Option<Duration> {
            let again = self.looks.fetch_add(1, Ordering::Relaxed) == 0;
            self.released.store(!again, Ordering::Relaxed);
            again.then_some(RECHECK)
        }
    }

    struct Request<T: Supervised + 'static>(Supervision<T>);

    impl<T: Supervised> Wake for Request<T> {
        fn wake(self: Arc<Self>) {
            let waker = Waker::from(Arc::clone(&self));
            self.look(&waker);
        }
    }

    impl<T: Supervised> Deref for Request<T> {
        type Target = Supervision<T>;

        fn deref(&self) -> &Supervision<T> {
            &self.0
        }
    }

    fn request<T: Supervised>(clock: &ManualClock) -> Arc<Request<T>> {
        let housekeeping = Housekeeping::Manual(clock.clone());
        let mut supervision = Supervision::new();
        supervision.begin(GRACE, housekeeping);
        Arc::new(Request(supervision))
    }

    fn add<T: Supervised>(request: &Arc<Request<T>>, task: Counted<T>) -> usize {
        request.0.add(task, || Waker::from(Arc::clone(request)))
    }

    fn end<T: Supervised>(request: &Arc<Request<T>>) {
        request.ended(|| Waker::from(Arc::clone(request)));
    }

    #[test]
    fn a_task_is_looked_at_after_its_grace_period_and_until_it_is_given_up() {
        let clock = ManualClock::new();
        let (request, task) = (request(&clock), Counted::new(Blocking::default()));
        let index = add(&request, task.clone());
        end(&request);
        end(&request);
        clock.advance(GRACE - Duration::from_millis(1));
        assert_eq!(task.looks.load(Ordering::Relaxed), 0, "too soon");
        clock.advance(Duration::from_millis(1));
        assert_eq!(task.looks.load(Ordering::Relaxed), 1);
        clock.advance(RECHECK);
        assert_eq!(task.looks.load(Ordering::Relaxed), 2);
        assert!(task.is_released());
        assert_eq!(clock.scheduled(), 0, "given up");
        clock.advance(10 * GRACE);
        assert_eq!(task.looks.load(Ordering::Relaxed), 2);
        request.remove(index);
        assert_eq!(Arc::strong_count(&request), 1);
    }

    #[test]
    fn the_tasks_of_open_requests_cost_nothing_and_those_that_end_in_time_neither() {
        let clock = ManualClock::new();
        let open: Vec<_> = (0..1000).map(|_| request(&clock)).collect();
        for request in &open {
            add(request, Counted::new(Blocking::default()));
        }
        let in_time = request(&clock);
        let indices: Vec<_> = (0..5)
            .map(|_| add(&in_time, Counted::new(Blocking::default())))
            .collect();
        end(&in_time);
        let late = request(&clock);
        // A task that is started after the end is looked after, too.
        end(&late);
        add(&late, Counted::new(Blocking::default()));
        assert_eq!(clock.scheduled(), 2, "requests that have ended");
        for index in indices {
            in_time.remove(index);
        }
        assert_eq!(clock.scheduled(), 1);
        clock.advance(2 * GRACE);
        let looks = |request: &Arc<Request<Blocking>>| request.looks.load(Ordering::Relaxed);
        assert_eq!((looks(&late), looks(&in_time)), (2, 0));
        assert_eq!(open.iter().map(looks).sum::<usize>(), 0);
    }

    #[test]
    fn a_request_with_many_tasks_forgets_their_room_when_they_have_ended() {
        let clock = ManualClock::new();
        let request = request(&clock);
        let room = |request: &Request<Blocking>| lock(&request.alive).more.capacity();
        for ended in [false, true] {
            let tasks: Vec<_> = (0..1000)
                .map(|_| Counted::new(Blocking::default()))
                .collect();
            let add = |task: &Counted<Blocking>| add(&request, task.clone());
            let indices: Vec<_> = tasks.iter().map(add).collect();
            assert_eq!(lock(&request.alive).due, if ended { 1000 } else { 0 });
            assert!(room(&request) >= 998);
            end(&request);
            assert_eq!(lock(&request.alive).due, 1000);
            clock.advance(GRACE);
            for (index, task) in indices.into_iter().zip(&tasks) {
                assert_eq!(task.looks.load(Ordering::Relaxed), 1);
                request.remove(index);
            }
            assert_eq!((lock(&request.alive).due, clock.scheduled()), (0, 0));
            assert!(room(&request) <= KEPT);
        }
    }

    #[test]
    fn a_look_that_panics_is_counted_and_repeated() {
        struct Panicking(AtomicUsize);

        impl Supervised for Panicking {
            fn is_released(&self) -> bool {
                false
            }

            fn overdue(&self) -> Option<Duration> {
                if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                    std::panic::resume_unwind(Box::new("an observer panics"));
                }
                None
            }
        }

        let clock = ManualClock::new();
        let (request, task) = (
            request(&clock),
            Counted::new(Panicking(AtomicUsize::new(0))),
        );
        add(&request, task.clone());
        end(&request);
        clock.advance(GRACE);
        assert_eq!(Housekeeping::Manual(clock.clone()).panics(), 1);
        clock.advance(RECHECK);
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
        assert_eq!(clock.scheduled(), 0);
    }

    #[test]
    fn a_task_added_during_the_last_look_is_looked_at_after_a_grace_period_of_its_own() {
        enum Task {
            Adds(Mutex<Option<Arc<Request<Self>>>>, Counted<Self>),
            Added(Blocking),
        }

        impl Supervised for Task {
            fn is_released(&self) -> bool {
                match self {
                    Self::Adds(request, _) => lock(request).is_none(),
                    Self::Added(task) => task.is_released(),
                }
            }

            fn overdue(&self) -> Option<Duration> {
                match self {
                    Self::Adds(request, added) => {
                        if let Some(request) = lock(request).take() {
                            add(&request, added.clone());
                        }
                        None
                    }
                    Self::Added(task) => task.overdue(),
                }
            }
        }

        let clock = ManualClock::new();
        let request = request(&clock);
        let added = Counted::new(Task::Added(Blocking::default()));
        let looks = || match &*added {
            Task::Added(task) => task.looks.load(Ordering::Relaxed),
            Task::Adds(..) => unreachable!(),
        };
        let adds = Mutex::new(Some(Arc::clone(&request)));
        add(&request, Counted::new(Task::Adds(adds, added.clone())));
        end(&request);
        clock.advance(2 * GRACE - Duration::from_millis(1));
        assert_eq!(looks(), 0, "too soon");
        clock.advance(Duration::from_millis(1));
        assert_eq!(looks(), 1);
        clock.advance(GRACE);
        assert_eq!(looks(), 2, "given up");
        assert_eq!(clock.scheduled(), 0);
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use std::{sync::atomic::AtomicBool, task::Wake};

    use loom::{sync::Arc, thread};

    use super::*;
    use crate::cancel::{CancelReason, CancelState, Outcome};

    struct Task;

    impl Supervised for Task {
        fn is_released(&self) -> bool {
            false
        }

        fn overdue(&self) -> Option<Duration> {
            None
        }
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Invariant 3 of `TaskGroup`.
    #[test]
    fn a_task_that_lists_its_waker_while_it_is_woken_sees_the_reason() {
        loom::model(|| {
            let tasks = Supervision::new();
            let parts = Arc::new((tasks, CancelState::new()));
            let index = parts
                .0
                .add(Counted::new(Task), || unreachable!("it has not ended"));
            let cancelling = thread::spawn({
                let parts = Arc::clone(&parts);
                move || {
                    parts.1.cancel(CancelReason::new(Outcome::Cancelled));
                    parts.0.wake();
                }
            });
            let woken = std::sync::Arc::new(Woken::default());
            parts
                .0
                .watch(index, &Waker::from(std::sync::Arc::clone(&woken)));
            let seen = parts.1.reason().is_some();
            cancelling.join().expect("no panic");
            assert!(seen || woken.0.load(Ordering::Relaxed));
            parts.0.remove(index);
        });
    }
}
