//! The tasks of a request that are alive, their wakers, and when each is to be looked at.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    account::aside,
    counted::Counted,
    housekeeping::{Housekeeping, Key},
    slab::insert_shared,
};

/// Tasks, and others that wait, that need no allocation.
const FEW: usize = 2;

/// Room for tasks that a request keeps when they have ended.
pub(super) const KEPT: usize = 64;

/// Room that it leaves to the next request.
const LEFT: usize = 8;

/// A task that is looked at once its grace period is over.
pub(crate) trait Supervised: Send + Sync {
    /// Whether the request's scope no longer waits for it.
    fn is_released(&self) -> bool;

    /// Looks at a task whose grace period is over. Returns after which time to look again, if at all.
    fn overdue(&self) -> Option<Duration>;
}

/// What is the same for all tasks of a request.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) grace: Duration,
    pub(crate) housekeeping: Housekeeping,
}

/// The tasks of one request that are alive, and what waits for its cancellation.
pub(super) struct Alive<T> {
    /// Most requests have few tasks.
    few: [Option<Entry<T>>; FEW],
    more: Option<Box<Slab<Entry<T>>>>,
    /// Made when the request is cancelled, or ends, with tasks.
    pub(super) ending: Option<Box<Ending>>,
}

/// How a request with tasks ends.
#[derive(Default)]
pub(super) struct Ending {
    pub(super) cancelled: Option<tokio::time::Instant>,
    pub(super) ended: Option<tokio::time::Instant>,
    /// The end of the last task that has ended.
    pub(super) last_end: Option<tokio::time::Instant>,
    /// Set when there is something to look at.
    pub(super) terms: Option<Terms>,
    /// Entries that are due at some time, so that the end of a task walks over no others.
    pub(super) due: usize,
    /// The next look.
    pub(super) scheduled: Option<Key>,
    /// Looks at tasks so far.
    pub(super) looks: usize,
}

pub(super) struct Entry<T> {
    /// `None` for what waits for the request's cancellation and is no task of it.
    pub(super) task: Option<Counted<T>>,
    /// When to look at the task, if at all.
    pub(super) due: Option<Instant>,
    /// Wakes what waits when the request is cancelled.
    waker: Option<Waker>,
}

impl<T> Default for Alive<T> {
    fn default() -> Self {
        Self {
            few: [const { None }; FEW],
            more: None,
            ending: None,
        }
    }
}

impl<T> Alive<T> {
    /// Begins anew, when all tasks have ended.
    pub(super) fn reset(&mut self) {
        self.few = [const { None }; FEW];
        if self.room() > LEFT {
            free(&mut self.more);
        }
        if self.ending.is_some() {
            free(&mut self.ending);
        }
    }

    /// Room for tasks besides the first ones.
    pub(super) fn room(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.capacity())
    }

    // Beside the accounts, as is the room for further tasks: it stays with the group, or is of the layer's making.
    pub(super) fn ending(&mut self) -> &mut Ending {
        let make = || aside(Box::<Ending>::default);
        self.ending.get_or_insert_with(make)
    }

    /// The request was cancelled at `at`, unless it was before.
    pub(super) fn cancelled(&mut self, at: tokio::time::Instant) {
        self.ending().cancelled.get_or_insert(at);
    }

    /// The tasks.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &Counted<T>> {
        let few = self.few.iter().flatten();
        let more = self.more.iter().flat_map(|more| more.iter());
        let more = more.map(|(_, entry)| entry);
        few.chain(more).filter_map(|entry| entry.task.as_ref())
    }

    /// The entries with their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Entry<T>)> {
        let few = self.few.iter_mut().enumerate();
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        let more = more.map(|(index, entry)| (FEW + index, entry));
        few.filter_map(|(index, entry)| Some((index, entry.as_mut()?)))
            .chain(more)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Entry<T>> {
        match self.few.get_mut(index) {
            Some(slot) => slot.as_mut(),
            None => self.more.as_mut()?.get_mut(index - FEW),
        }
    }

    /// When to look next.
    fn next(&mut self) -> Option<Instant> {
        self.iter_mut().filter_map(|(_, entry)| entry.due).min()
    }

    #[inline]
    fn insert(&mut self, entry: Entry<T>) -> usize {
        match self.few.iter().position(Option::is_none) {
            Some(index) => {
                self.few[index] = Some(entry);
                index
            }
            None => self.insert_further(entry),
        }
    }

    #[cold]
    fn insert_further(&mut self, entry: Entry<T>) -> usize {
        let more = self.more.get_or_insert_with(|| aside(Box::default));
        FEW + insert_shared(more, entry)
    }

    /// Adds a task, and returns its number.
    #[inline]
    pub(super) fn add(&mut self, task: Counted<T>) -> usize {
        self.insert(Entry {
            task: Some(task),
            due: None,
            waker: None,
        })
    }

    /// Has a task that was added when the request had ended looked at after its grace period. `waker` wakes a look.
    #[cold]
    pub(super) fn supervise_one(
        &mut self,
        index: usize,
        terms: impl FnOnce() -> Terms,
        waker: impl FnOnce() -> Waker,
    ) {
        let terms = self.terms(terms);
        let now = terms.housekeeping.now();
        let due = now.checked_add(terms.grace);
        if let Some(entry) = self.get_mut(index) {
            entry.due = due;
        }
        self.ending().due += usize::from(due.is_some());
        self.schedule(&terms.housekeeping, now, waker);
    }

    fn terms(&mut self, terms: impl FnOnce() -> Terms) -> Terms {
        self.ending().terms.get_or_insert_with(terms).clone()
    }

    /// Has `waker` woken at the next [`take_wakers`](Self::take_wakers), for what is no task, and returns its
    /// number.
    pub(super) fn wait(&mut self, waker: Waker) -> usize {
        self.insert(Entry {
            task: None,
            due: None,
            waker: Some(waker),
        })
    }

    /// Has `waker` woken at the next [`take_wakers`](Self::take_wakers), for the entry of this number, and
    /// passes the one that was to be woken.
    pub(super) fn watch(&mut self, index: usize, waker: &mut Option<Waker>) {
        if let Some(entry) = self.get_mut(index) {
            std::mem::swap(&mut entry.waker, waker);
        }
    }

    /// Takes the wakers of what watches or waits, to be woken. Each has to watch again.
    pub(super) fn take_wakers(&mut self) -> Wakers {
        let take = |entry: &mut Entry<T>| entry.waker.take();
        let few = self.few.each_mut();
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        Wakers {
            few: few.map(|slot| slot.as_mut().and_then(take)),
            more: collect_aside(more.filter_map(|(_, entry)| take(entry))),
        }
    }

    /// Removes a task that has ended, or what waits no more, to be dropped without the lock. Returns the
    /// next look, too, if no entry is due any more.
    #[inline]
    pub(super) fn remove(&mut self, index: usize) -> (Option<Entry<T>>, Option<Idle>) {
        let entry = match self.few.get_mut(index) {
            Some(slot) => slot.take(),
            None => self.remove_further(index - FEW),
        };
        let Some(entry) = entry else {
            return (None, None);
        };
        let idle = match &mut self.ending {
            Some(ending) => ending.removed(entry.due.is_some()),
            None => None,
        };
        (Some(entry), idle)
    }

    fn remove_further(&mut self, index: usize) -> Option<Entry<T>> {
        let more = self.more.as_mut()?;
        let entry = more.try_remove(index)?;
        if more.is_empty() && more.capacity() > KEPT {
            // A walk takes as long as there were entries at once.
            free(&mut self.more);
        }
        Some(entry)
    }

    /// The request has ended at `at`: looks at its tasks when their grace period is over.
    ///
    /// `waker` makes a waker that looks at them.
    pub(super) fn supervise(
        &mut self,
        at: tokio::time::Instant,
        terms: impl FnOnce() -> Terms,
        waker: impl FnOnce() -> Waker,
    ) {
        if self.tasks().next().is_none() {
            return;
        }
        self.ending().ended = Some(at);
        let terms = self.terms(terms);
        let now = terms.housekeeping.now();
        let due = now.checked_add(terms.grace);
        let mut count = 0;
        for (_, entry) in self.iter_mut() {
            if entry.task.is_some() {
                entry.due = due;
                count += usize::from(due.is_some());
            }
        }
        self.ending().due = count;
        self.schedule(&terms.housekeeping, now, waker);
    }

    /// Schedules the next look, unless one is scheduled.
    pub(super) fn schedule(
        &mut self,
        housekeeping: &Housekeeping,
        now: Instant,
        waker: impl FnOnce() -> Waker,
    ) {
        if self.ending().scheduled.is_none() {
            let at = self.next();
            self.ending().scheduled = at.map(|at| housekeeping.schedule(now, at, &waker()));
        }
    }
}

impl Ending {
    /// An entry was removed, which `was_due` or not. Returns the next look if no entry is due any more.
    fn removed(&mut self, was_due: bool) -> Option<Idle> {
        self.due -= usize::from(was_due);
        if self.due > 0 {
            return None;
        }
        let key = self.scheduled.take()?;
        let terms = self.terms.as_ref()?;
        Some((key, terms.housekeeping.clone()))
    }
}

/// Wakers that were taken from a list.
#[derive(Default)]
pub(super) struct Wakers {
    few: [Option<Waker>; FEW],
    more: Vec<Waker>,
}

impl Wakers {
    /// Not under a lock, since waking may call any code.
    pub(super) fn wake(mut self) {
        for waker in self.few.into_iter().flatten().chain(self.more.drain(..)) {
            waker.wake();
        }
        free_list(self.more);
    }
}

/// Collects in no account what is passed to [`free_list`].
pub(super) fn collect_aside<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return Vec::new();
    }
    aside(|| items.collect())
}

/// Frees an empty list in no account.
pub(super) fn free_list<T>(list: Vec<T>) {
    if list.capacity() > 0 {
        aside(|| drop(list));
    }
}

/// Frees in no account what was made in none.
#[cold]
fn free<T>(made_aside: &mut Option<Box<T>>) {
    aside(|| *made_aside = None);
}

/// A look that is to be cancelled.
pub(super) type Idle = (Key, Housekeeping);
