//! Wakes the tasks of requests that are cancelled, and gives up those that outlive their grace period.
//!
//! Most tasks end themselves. This is for those that block their thread and cannot. A request that
//! ends while tasks are alive is scheduled for the end of its grace period, and is taken off when its
//! last task ends. So the cost is that of ended requests with tasks, whatever is open besides.

use std::{
    task::{Wake, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    group::{Group, User},
    supervision::{Supervised, Terms},
};
use crate::{
    account::aside,
    counted::Counted,
    sync::{Arc, AtomicU32, Ordering},
};

/// Time between two looks at a task that is in the middle of a poll.
pub(super) const RECHECK: Duration = Duration::from_millis(50);

/// Looks at the tasks of a group when it is woken.
struct Look<T>(Counted<Group<T>>);

impl<T: Supervised + 'static> Wake for Look<T> {
    fn wake(self: Arc<Self>) {
        Group::look(&self.0);
    }
}

impl<T: Supervised + 'static> Group<T> {
    /// Adds a task that is alive, counts it in `spawned`, and returns its number. The caller looks afterwards whether
    /// the request is cancelled (invariants 3 and 5).
    pub(crate) fn add(
        this: &Counted<Self>,
        task: Counted<T>,
        spawned: &AtomicU32,
        user: User,
        terms: impl FnOnce() -> Terms,
    ) -> usize {
        this.with(|shared| {
            shared.begin(user);
            // Relaxed: written under this lock, and read when the scope closes, which happens after.
            let before = spawned.load(Ordering::Relaxed);
            spawned.store(before.saturating_add(1), Ordering::Relaxed);
            let ended = shared.ended;
            let members = shared.members();
            let index = members.alive.add(task);
            if ended {
                members
                    .alive
                    .ending()
                    .ended
                    .get_or_insert_with(Instant::now);
                let waker = || Self::look_waker(this);
                members.alive.supervise_one(index, terms, waker);
            }
            index
        })
    }

    /// The request's response is over. Tasks that are alive are supervised from now on.
    pub(crate) fn request_ended(this: &Counted<Self>, at: Instant, terms: impl FnOnce() -> Terms) {
        this.with(|shared| {
            let had_ended = std::mem::replace(&mut shared.ended, true);
            if let Some(members) = shared.members.as_mut().filter(|_| !had_ended) {
                let waker = || Self::look_waker(this);
                members.alive.supervise(at, terms, waker);
            }
        });
    }

    /// Wakes a look at the tasks.
    fn look_waker(this: &Counted<Self>) -> Waker {
        aside(|| Waker::from(Arc::new(Look(this.clone()))))
    }

    /// Looks at the tasks whose grace period is over.
    fn look(this: &Counted<Self>) {
        let waker = || Self::look_waker(this);
        let looked_at = this.with(|shared| {
            let alive = &mut shared.members.as_mut()?.alive;
            let ending = alive.ending.as_mut()?;
            ending.scheduled = None;
            let terms = ending.terms.clone()?;
            let now = terms.housekeeping.now();
            let (mut looked_at, mut count) = (Vec::new(), 0);
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
            alive.ending().due = count;
            alive.ending().looks += looked_at.len();
            alive.schedule(&terms.housekeeping, now, waker);
            Some((terms.housekeeping, now, looked_at))
        });
        let Some((housekeeping, now, looked_at)) = looked_at else {
            return;
        };
        let again: Vec<_> = looked_at.iter().map(|(_, task)| task.overdue()).collect();
        let key = this.with(|shared| {
            let alive = &mut shared.members.as_mut()?.alive;
            for ((index, task), again) in looked_at.iter().zip(again) {
                let due = again.and_then(|after| now.checked_add(after));
                let entry = alive.get_mut(*index);
                // Another task may have taken the place.
                let is_it = |found: &Counted<T>| found.is_same(task);
                let Some(entry) = entry.filter(|entry| entry.task.as_ref().is_some_and(is_it))
                else {
                    continue;
                };
                let was_due = std::mem::replace(&mut entry.due, due).is_some();
                let ending = alive.ending();
                ending.due += usize::from(due.is_some());
                ending.due -= usize::from(was_due);
            }
            let key = alive.ending().scheduled.take();
            alive.schedule(&housekeeping, now, waker);
            key
        });
        drop(looked_at);
        if let Some(key) = key {
            housekeeping.cancel(key);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;
    use crate::{
        housekeeping::{Housekeeping, ManualClock},
        sync::{Mutex, lock},
        task::supervision::{Ending, KEPT},
    };

    const GRACE: Duration = Duration::from_secs(5);

    const USER: User = User {
        layer: 1,
        follows_shutdown: true,
    };

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

    /// A request, and its terms.
    struct Request<T>(Counted<Group<T>>, Terms);

    impl<T> Clone for Request<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone(), self.1.clone())
        }
    }

    fn request<T: Supervised>(clock: &ManualClock) -> Request<T> {
        let terms = Terms {
            grace: GRACE,
            housekeeping: Housekeeping::Manual(clock.clone()),
        };
        Request(Counted::new(Group::unused()), terms)
    }

    fn add<T: Supervised + 'static>(request: &Request<T>, task: Counted<T>) -> usize {
        let spawned = AtomicU32::new(0);
        Group::add(&request.0, task, &spawned, USER, || request.1.clone())
    }

    fn end<T: Supervised + 'static>(request: &Request<T>) {
        Group::request_ended(&request.0, Instant::now(), || request.1.clone());
    }

    fn of_ending<T>(request: &Request<T>, f: fn(&Ending) -> usize) -> usize {
        request.0.with(|shared| {
            let alive = shared.members.as_ref().map(|members| &members.alive);
            let ending = alive.and_then(|alive| alive.ending.as_deref());
            ending.map_or(0, f)
        })
    }

    fn due<T: Supervised>(request: &Request<T>) -> usize {
        of_ending(request, |ending| ending.due)
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
        request.0.remove(index, None);
        assert!(request.0.is_only());
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
            in_time.0.remove(index, None);
        }
        assert_eq!(clock.scheduled(), 1);
        clock.advance(2 * GRACE);
        let looks = |request: &Request<Blocking>| of_ending(request, |ending| ending.looks);
        assert_eq!((looks(&late), looks(&in_time)), (2, 0));
        assert_eq!(open.iter().map(looks).sum::<usize>(), 0);
    }

    #[test]
    fn a_request_with_many_tasks_forgets_their_room_when_they_have_ended() {
        let clock = ManualClock::new();
        let request = request(&clock);
        let room =
            |request: &Request<Blocking>| request.0.with(|shared| shared.members().alive.room());
        for ended in [false, true] {
            let tasks: Vec<_> = (0..1000)
                .map(|_| Counted::new(Blocking::default()))
                .collect();
            let add = |task: &Counted<Blocking>| add(&request, task.clone());
            let indices: Vec<_> = tasks.iter().map(add).collect();
            assert_eq!(due(&request), if ended { 1000 } else { 0 });
            assert!(room(&request) >= 998);
            end(&request);
            assert_eq!(due(&request), 1000);
            clock.advance(GRACE);
            for (index, task) in indices.into_iter().zip(&tasks) {
                assert_eq!(task.looks.load(Ordering::Relaxed), 1);
                request.0.remove(index, None);
            }
            assert_eq!((due(&request), clock.scheduled()), (0, 0));
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
            Adds(Mutex<Option<Request<Self>>>, Counted<Self>),
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
        let adds = Mutex::new(Some(request.clone()));
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
    use loom::{sync::Arc, thread};

    use super::*;
    use crate::{
        cancel::{CancelReason, CancelState, Outcome},
        housekeeping::test_waker::woken,
        task::models::{Task, USER, terms},
    };

    /// Invariant 3 of `TaskGroup`, for a token.
    #[test]
    fn a_token_made_while_cancelling_is_cancelled() {
        loom::model(|| {
            let group = Counted::new(Group::<Task>::unused());
            let parts = Arc::new((group, CancelState::new()));
            let cancelling = thread::spawn({
                let parts = Arc::clone(&parts);
                move || {
                    parts.1.cancel(CancelReason::new(Outcome::ClientGone));
                    parts.0.cancel(None);
                }
            });
            // The second one has a parent.
            let tokens = [(); 2].map(|()| parts.0.token(USER));
            let seen = parts.1.reason().is_some();
            cancelling.join().expect("no panic");
            for token in tokens {
                assert!(seen || token.is_cancelled());
            }
        });
    }

    /// Invariant 3 of `TaskGroup`.
    #[test]
    fn a_task_that_lists_its_waker_while_it_is_woken_sees_the_reason() {
        loom::model(|| {
            let parts = Arc::new((Counted::new(Group::unused()), CancelState::new()));
            let index = Group::add(
                &parts.0,
                Counted::new(Task),
                &AtomicU32::new(0),
                USER,
                terms,
            );
            let cancelling = thread::spawn({
                let parts = Arc::clone(&parts);
                move || {
                    parts.1.cancel(CancelReason::new(Outcome::Cancelled));
                    parts.0.cancel(None);
                }
            });
            let (woken, waker) = woken();
            parts.0.watch(index, &waker);
            let seen = parts.1.reason().is_some();
            cancelling.join().expect("no panic");
            assert!(seen || woken.is_woken());
            parts.0.remove(index, None);
        });
    }
}
