//! Gives up tasks of ended requests that outlive their grace period.
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
    housekeeping::{Housekeeping, Key},
    sync::{Arc, AtomicUsize, Mutex, lock},
};

/// Time between two looks at a task that is in the middle of a poll.
pub(super) const RECHECK: Duration = Duration::from_millis(50);

/// Tasks that need no allocation.
const FEW: usize = 2;

/// Room for tasks that a request keeps when they have ended.
const KEPT: usize = 64;

/// A task that is looked at once its grace period is over.
pub(crate) trait Supervised: Send + Sync {
    /// Whether the request's scope no longer waits for it.
    fn is_released(&self) -> bool;

    /// Looks at a task whose grace period is over. Returns after which time to look again, if at all.
    fn overdue(&self) -> Option<Duration>;
}

/// The tasks of one request that are alive.
pub(crate) struct Supervision {
    grace: Duration,
    housekeeping: Housekeeping,
    alive: Mutex<Alive>,
    /// Looks at tasks so far.
    looks: AtomicUsize,
}

#[derive(Default)]
struct Alive {
    /// Most requests have few tasks.
    few: [Option<Entry>; FEW],
    more: Slab<Entry>,
    /// Entries that are due at some time, so that the end of a task walks over no others.
    due: usize,
    /// The request has ended, so tasks that are added from now on are looked after as well.
    ended: bool,
    /// The next look.
    scheduled: Option<Key>,
}

struct Entry {
    task: Arc<dyn Supervised>,
    /// When to look at the task, if at all.
    due: Option<Instant>,
}

impl Alive {
    /// The entries with their numbers.
    fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Entry)> {
        let few = self.few.iter_mut().enumerate();
        let more = self
            .more
            .iter_mut()
            .map(|(index, entry)| (FEW + index, entry));
        few.filter_map(|(index, entry)| Some((index, entry.as_mut()?)))
            .chain(more)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Entry> {
        match self.few.get_mut(index) {
            Some(slot) => slot.as_mut(),
            None => self.more.get_mut(index - FEW),
        }
    }

    /// When to look next.
    fn next(&mut self) -> Option<Instant> {
        self.iter_mut().filter_map(|(_, entry)| entry.due).min()
    }

    fn add(&mut self, entry: Entry) -> usize {
        self.due += usize::from(entry.due.is_some());
        match self.few.iter().position(Option::is_none) {
            Some(index) => {
                self.few[index] = Some(entry);
                index
            }
            None => FEW + self.more.insert(entry),
        }
    }

    fn remove(&mut self, index: usize) -> Option<Entry> {
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

impl Supervision {
    pub(super) fn new(grace: Duration, housekeeping: Housekeeping) -> Self {
        Self {
            grace,
            housekeeping,
            alive: Mutex::default(),
            looks: AtomicUsize::new(0),
        }
    }

    /// Adds a task, and returns its number. See [`ended`](Self::ended) for `waker`.
    pub(super) fn add(&self, task: Arc<dyn Supervised>, waker: impl FnOnce() -> Waker) -> usize {
        let alive = &mut *lock(&self.alive);
        if !alive.ended {
            return alive.add(Entry { task, due: None });
        }
        let now = self.housekeeping.now();
        let due = now.checked_add(self.grace);
        let index = alive.add(Entry { task, due });
        self.schedule(alive, now, waker);
        index
    }

    /// Removes a task that has ended.
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
            entry.due = due;
            count += usize::from(due.is_some());
        }
        alive.due = count;
        self.schedule(alive, now, waker);
    }

    /// Schedules the next look, unless one is scheduled.
    fn schedule(&self, alive: &mut Alive, now: Instant, waker: impl FnOnce() -> Waker) {
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
                if entry.task.is_released() {
                    entry.due = None;
                } else if entry.due.is_some_and(|due| due <= now) {
                    // Set before the look: observers run in there, and may panic.
                    entry.due = now.checked_add(RECHECK);
                    looked_at.push((index, Arc::clone(&entry.task)));
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
            let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.task, task)) else {
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

impl fmt::Debug for Supervision {
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
    use crate::housekeeping::ManualClock;

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

    struct Request(Supervision);

    impl Wake for Request {
        fn wake(self: Arc<Self>) {
            let waker = Waker::from(Arc::clone(&self));
            self.look(&waker);
        }
    }

    impl Deref for Request {
        type Target = Supervision;

        fn deref(&self) -> &Supervision {
            &self.0
        }
    }

    fn request(clock: &ManualClock) -> Arc<Request> {
        let housekeeping = Housekeeping::Manual(clock.clone());
        Arc::new(Request(Supervision::new(GRACE, housekeeping)))
    }

    fn add(request: &Arc<Request>, task: Arc<dyn Supervised>) -> usize {
        request.0.add(task, || Waker::from(Arc::clone(request)))
    }

    fn end(request: &Arc<Request>) {
        request.ended(|| Waker::from(Arc::clone(request)));
    }

    #[test]
    fn a_task_is_looked_at_after_its_grace_period_and_until_it_is_given_up() {
        let clock = ManualClock::new();
        let (request, task) = (request(&clock), Arc::new(Blocking::default()));
        let index = add(&request, Arc::clone(&task) as _);
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
            add(request, Arc::new(Blocking::default()));
        }
        let in_time = request(&clock);
        let indices: Vec<_> = (0..5)
            .map(|_| add(&in_time, Arc::new(Blocking::default())))
            .collect();
        end(&in_time);
        let late = request(&clock);
        // A task that is started after the end is looked after, too.
        end(&late);
        add(&late, Arc::new(Blocking::default()));
        assert_eq!(clock.scheduled(), 2, "requests that have ended");
        for index in indices {
            in_time.remove(index);
        }
        assert_eq!(clock.scheduled(), 1);
        clock.advance(2 * GRACE);
        let looks = |request: &Arc<Request>| request.looks.load(Ordering::Relaxed);
        assert_eq!((looks(&late), looks(&in_time)), (2, 0));
        assert_eq!(open.iter().map(looks).sum::<usize>(), 0);
    }

    #[test]
    fn a_request_with_many_tasks_forgets_their_room_when_they_have_ended() {
        let clock = ManualClock::new();
        let request = request(&clock);
        let room = |request: &Request| lock(&request.alive).more.capacity();
        for ended in [false, true] {
            let tasks: Vec<_> = (0..1000).map(|_| Arc::new(Blocking::default())).collect();
            let add = |task: &Arc<Blocking>| add(&request, Arc::clone(task) as _);
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
        let (request, task) = (request(&clock), Arc::new(Panicking(AtomicUsize::new(0))));
        add(&request, Arc::clone(&task) as _);
        end(&request);
        clock.advance(GRACE);
        assert_eq!(Housekeeping::Manual(clock.clone()).panics(), 1);
        clock.advance(RECHECK);
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
        assert_eq!(clock.scheduled(), 0);
    }

    #[test]
    fn a_task_added_during_the_last_look_is_looked_at_after_a_grace_period_of_its_own() {
        struct Adds(Mutex<Option<Arc<Request>>>, Arc<Blocking>);

        impl Supervised for Adds {
            fn is_released(&self) -> bool {
                lock(&self.0).is_none()
            }

            fn overdue(&self) -> Option<Duration> {
                if let Some(request) = lock(&self.0).take() {
                    add(&request, Arc::clone(&self.1) as _);
                }
                None
            }
        }

        let clock = ManualClock::new();
        let request = request(&clock);
        let added = Arc::new(Blocking::default());
        let first = Arc::new(Adds(
            Mutex::new(Some(Arc::clone(&request))),
            Arc::clone(&added),
        ));
        add(&request, first as _);
        end(&request);
        clock.advance(2 * GRACE - Duration::from_millis(1));
        assert_eq!(added.looks.load(Ordering::Relaxed), 0, "too soon");
        clock.advance(Duration::from_millis(1));
        assert_eq!(added.looks.load(Ordering::Relaxed), 1);
        clock.advance(GRACE);
        assert_eq!(added.looks.load(Ordering::Relaxed), 2, "given up");
        assert_eq!(clock.scheduled(), 0);
    }
}
