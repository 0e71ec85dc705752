//! The tasks of a request that are alive, their wakers, and when each is to be looked at.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    counted::Counted,
    housekeeping::{Housekeeping, Key},
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
    /// The layer, by its address. The request keeps it.
    pub(crate) layer: usize,
    /// Whether a shutdown of the layer cancels the request.
    pub(crate) follows_shutdown: bool,
}

/// The tasks of one request that are alive, and what waits for its cancellation.
pub(super) struct Alive<T> {
    /// Set by what uses the group first.
    pub(super) terms: Option<Terms>,
    /// Most requests have few tasks.
    few: [Option<Entry<T>>; FEW],
    pub(super) more: Slab<Entry<T>>,
    /// Entries that are due at some time, so that the end of a task walks over no others.
    pub(super) due: usize,
    /// The next look.
    pub(super) scheduled: Option<Key>,
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
            terms: None,
            few: [const { None }; FEW],
            more: Slab::new(),
            due: 0,
            scheduled: None,
        }
    }
}

impl<T> Alive<T> {
    /// Begins to be used by a request, if it is not.
    #[inline]
    pub(super) fn begin(&mut self, terms: impl FnOnce() -> Terms) {
        if self.terms.is_none() {
            self.terms = Some(terms());
        }
    }

    /// Begins anew, when all tasks have ended.
    pub(super) fn reset(&mut self) {
        self.terms = None;
        self.few = [const { None }; FEW];
        if self.more.capacity() > LEFT {
            self.more = Slab::new();
        }
        self.due = 0;
        self.scheduled = None;
    }

    /// Whether it is used by a request of this layer.
    pub(super) fn is_of(&self, layer: usize) -> bool {
        self.terms
            .as_ref()
            .is_some_and(|terms| terms.layer == layer)
    }

    pub(super) fn follows_shutdown(&self) -> bool {
        self.terms
            .as_ref()
            .is_some_and(|terms| terms.follows_shutdown)
    }

    /// The tasks.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &Counted<T>> {
        let few = self.few.iter().flatten();
        let more = self.more.iter().map(|(_, entry)| entry);
        few.chain(more).filter_map(|entry| entry.task.as_ref())
    }

    /// The entries with their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Entry<T>)> {
        let few = self.few.iter_mut().enumerate();
        let more = self
            .more
            .iter_mut()
            .map(|(index, entry)| (FEW + index, entry));
        few.filter_map(|(index, entry)| Some((index, entry.as_mut()?)))
            .chain(more)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Entry<T>> {
        match self.few.get_mut(index) {
            Some(slot) => slot.as_mut(),
            None => self.more.get_mut(index - FEW),
        }
    }

    /// When to look next.
    fn next(&mut self) -> Option<Instant> {
        self.iter_mut().filter_map(|(_, entry)| entry.due).min()
    }

    #[inline]
    fn insert(&mut self, entry: Entry<T>) -> usize {
        self.due += usize::from(entry.due.is_some());
        match self.few.iter().position(Option::is_none) {
            Some(index) => {
                self.few[index] = Some(entry);
                index
            }
            None => FEW + self.more.insert(entry),
        }
    }

    /// Adds a task, and returns its number. `waker` wakes a look. If the request has ended, the task is looked at
    /// after its grace period.
    #[inline]
    pub(super) fn add(
        &mut self,
        task: Counted<T>,
        ended: bool,
        waker: impl FnOnce() -> Waker,
    ) -> usize {
        let index = self.insert(Entry {
            task: Some(task),
            due: None,
            waker: None,
        });
        if ended {
            self.supervise_one(index, waker);
        }
        index
    }

    #[cold]
    fn supervise_one(&mut self, index: usize, waker: impl FnOnce() -> Waker) {
        let Some(terms) = self.terms.clone() else {
            return;
        };
        let now = terms.housekeeping.now();
        let due = now.checked_add(terms.grace);
        if let Some(entry) = self.get_mut(index) {
            entry.due = due;
        }
        self.due += usize::from(due.is_some());
        self.schedule(&terms.housekeeping, now, waker);
    }

    /// Has `waker` woken at the next [`take_wakers`](Self::take_wakers), for what is no task, and returns its
    /// number.
    pub(super) fn wait(&mut self, waker: Waker, terms: impl FnOnce() -> Terms) -> usize {
        self.begin(terms);
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
    pub(super) fn take_wakers(&mut self) -> ([Option<Waker>; FEW], Vec<Waker>) {
        let take = |entry: &mut Entry<T>| entry.waker.take();
        let few = self.few.each_mut();
        let few = few.map(|slot| slot.as_mut().and_then(take));
        let more = self.more.iter_mut().filter_map(|(_, entry)| take(entry));
        (few, more.collect())
    }

    /// Removes a task that has ended, or what waits no more, to be dropped without the lock. Returns the
    /// next look, too, if no entry is due any more.
    #[inline]
    pub(super) fn remove(&mut self, index: usize) -> (Option<Removed<T>>, Option<Idle>) {
        let entry = match self.few.get_mut(index) {
            Some(slot) => slot.take(),
            None => self.remove_further(index - FEW),
        };
        let Some(entry) = entry else {
            return (None, None);
        };
        self.due -= usize::from(entry.due.is_some());
        let idle = match self.scheduled {
            Some(_) if self.due == 0 => self.take_scheduled(),
            _ => None,
        };
        (Some(Removed(entry)), idle)
    }

    fn remove_further(&mut self, index: usize) -> Option<Entry<T>> {
        let entry = self.more.try_remove(index)?;
        if self.more.is_empty() && self.more.capacity() > KEPT {
            // A walk takes as long as there were entries at once.
            self.more = Slab::new();
        }
        Some(entry)
    }

    fn take_scheduled(&mut self) -> Option<Idle> {
        let key = self.scheduled.take()?;
        let terms = self.terms.as_ref()?;
        Some((key, terms.housekeeping.clone()))
    }

    /// The request has ended: looks at its tasks when their grace period is over.
    ///
    /// `waker` makes a waker that looks at them.
    pub(super) fn supervise(&mut self, waker: impl FnOnce() -> Waker) {
        // Without terms there is no entry.
        let Some(terms) = self.terms.clone() else {
            return;
        };
        let mut due = None;
        let mut count = 0;
        for (_, entry) in self.iter_mut() {
            if entry.task.is_some() {
                let (_, at) = due.get_or_insert_with(|| {
                    let now = terms.housekeeping.now();
                    (now, now.checked_add(terms.grace))
                });
                entry.due = *at;
                count += usize::from(at.is_some());
            }
        }
        self.due = count;
        if let Some((now, _)) = due {
            self.schedule(&terms.housekeeping, now, waker);
        }
    }

    /// Schedules the next look, unless one is scheduled.
    pub(super) fn schedule(
        &mut self,
        housekeeping: &Housekeeping,
        now: Instant,
        waker: impl FnOnce() -> Waker,
    ) {
        if self.scheduled.is_none() {
            let at = self.next();
            self.scheduled = at.map(|at| housekeeping.schedule(now, at, &waker()));
        }
    }
}

/// An entry that was removed.
pub(super) struct Removed<T>(#[expect(dead_code, reason = "dropped without the lock")] Entry<T>);

/// A look that is to be cancelled.
pub(super) type Idle = (Key, Housekeeping);
