use std::{fmt, task::Waker};

use slab::Slab;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    report::{TaskFigures, TaskReport},
    supervision::{Alive, Supervised, Wakers, collect_aside, free_list},
    tokens::Tokens,
};
use crate::{
    account::aside,
    counted::Counted,
    slab::insert_shared,
    sync::{Mutex, lock},
};

/// Maximum number of tasks that a request's report lists.
const MAX_NAMED: usize = 64;

// `ScopeReport::overruns` states this limit.
const _: () = assert!(MAX_NAMED == 64);

/// What the tasks of one request share. A scope makes it with its first task, and keeps it for its later
/// requests.
///
/// # Invariants
///
/// 1. That a scope has a group is noted in the word of its cancellation, before anything is listed in the group. A
///    thread that cancels looks for the note afterwards. So of "noted" and "cancelled" the later one sees the
///    earlier. A thread that has the scope to itself may look without the lock whether something was listed.
/// 2. A task of a cancelled request records its end before it lets the scope close, so the scope reads
///    the last end of all.
/// 3. A task is listed, or its waker, and its thread looks afterwards whether its request is cancelled. A
///    thread that cancels takes the wakers afterwards, under the same lock. So of "listed" and
///    "cancelled" the later one sees the earlier: the moment is recorded, and the task is woken, or goes on by
///    itself. A token that is made is listed in the same way, and cancelled instead of woken. A task is counted by
///    the lifecycle before it is listed, so the same is true of "task started" and "request ended".
/// 4. A group is listed as a dependent of the group of the request that has sent its own, and its thread
///    then looks whether that request is cancelled. So 3 holds for that request, too.
/// 5. A shutdown begins, and then locks each group that exists. A thread that lists something in a group looks
///    afterwards whether a shutdown has begun. So of "listed" and "shut down" the later one sees the earlier.
/// 6. Between two requests the group may still name the former one, with nothing listed. A thread that acts for the
///    request that it names looks again under the lock under which it acts.
pub(crate) struct Group<T> {
    shared: Mutex<Shared<T>>,
}

/// The request that uses a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    /// Its layer, by its address. The request keeps it.
    pub(crate) layer: usize,
    /// Whether a shutdown of the layer cancels it.
    pub(crate) follows_shutdown: bool,
}

/// The part under the lock: what a request needs that has made one token.
pub(super) struct Shared<T> {
    // Not a `User`, which would take a word more.
    /// The layer of the request that uses it, or of the last one that did (invariant 6); zero if there is none.
    layer: usize,
    follows_shutdown: bool,
    /// Whether the request has ended.
    pub(super) ended: bool,
    /// The first token.
    token: Option<CancellationToken>,
    /// Made with the first task, or what waits, and kept for later requests.
    pub(super) members: Option<Box<Members<T>>>,
}

/// What a request with tasks has, or with several tokens.
pub(super) struct Members<T> {
    pub(super) alive: Alive<T>,
    /// The root of the further tokens.
    further: Option<CancellationToken>,
    rare: Option<Box<Rare<T>>>,
}

/// What few requests with tasks have.
struct Rare<T> {
    aborted: usize,
    given_up: usize,
    overruns: Vec<TaskReport>,
    /// The groups of requests that the request has sent.
    dependents: Slab<Counted<Group<T>>>,
}

impl<T> Rare<T> {
    fn dependents(&self) -> Vec<Counted<Group<T>>> {
        collect_aside(self.dependents.iter().map(|(_, group)| group.clone()))
    }
}

impl<T> Members<T> {
    fn rare(&mut self) -> &mut Rare<T> {
        let make = || Rare {
            aborted: 0,
            given_up: 0,
            overruns: Vec::new(),
            dependents: Slab::new(),
        };
        self.rare.get_or_insert_with(|| aside(|| Box::new(make())))
    }

    fn figures(&self, spawned: usize) -> TaskFigures {
        let rare = self.rare.as_ref();
        let (aborted, given_up) = rare.map_or((0, 0), |rare| (rare.aborted, rare.given_up));
        let ending = self.alive.ending.as_ref();
        let latency = ending.and_then(|ending| match (ending.cancelled, ending.last_end) {
            (Some(cancelled), Some(last)) => last.checked_duration_since(cancelled),
            _ => None,
        });
        TaskFigures {
            spawned,
            aborted,
            given_up,
            cancel_latency: latency.filter(|_| given_up == 0),
            overruns: rare.map_or_else(Vec::new, |rare| rare.overruns.clone()),
        }
    }

    fn reset(&mut self) {
        self.alive.reset();
        if self.rare.is_some() {
            aside(|| self.rare = None);
        }
    }
}

impl<T> Shared<T> {
    /// Whether it is used by a request of this layer.
    const fn is_of(&self, layer: usize) -> bool {
        self.layer == layer
    }

    /// Whether it is used by a request of this layer that a shutdown cancels.
    const fn follows_shutdown(&self, layer: usize) -> bool {
        self.is_of(layer) && self.follows_shutdown
    }

    /// Is used by this request from now on.
    #[inline]
    pub(super) const fn begin(&mut self, user: User) {
        (self.layer, self.follows_shutdown) = (user.layer, user.follows_shutdown);
    }

    #[inline]
    pub(super) fn members(&mut self) -> &mut Members<T> {
        self.members.get_or_insert_with(Self::new_members)
    }

    #[cold]
    fn new_members() -> Box<Members<T>> {
        aside(|| {
            Box::new(Members {
                alive: Alive::default(),
                further: None,
                rare: None,
            })
        })
    }

    fn tasks(&self) -> impl Iterator<Item = &Counted<T>> {
        let members = self.members.iter();
        members.flat_map(|members| members.alive.tasks())
    }

    /// A token that is cancelled with the others.
    fn add_token(&mut self) -> CancellationToken {
        if self.token.is_none() {
            return self.token.insert(CancellationToken::new()).clone();
        }
        let further = &mut self.members().further;
        let further = further.get_or_insert_with(CancellationToken::new);
        further.child_token()
    }

    fn take_tokens(&mut self) -> Tokens {
        let members = self.members.as_mut();
        Tokens {
            first: self.token.take(),
            further: members.and_then(|members| members.further.take()),
        }
    }

    /// Starts again, between two requests. The tokens are passed to the caller, to be dropped without the lock.
    fn reset(&mut self) -> Tokens {
        let tokens = self.take_tokens();
        self.layer = 0;
        self.ended = false;
        if let Some(members) = &mut self.members {
            members.reset();
        }
        tokens
    }
}

impl<T> Group<T> {
    /// For no request yet.
    #[cold]
    pub(super) fn unused() -> Self {
        Self {
            shared: Mutex::new(Shared {
                layer: 0,
                follows_shutdown: false,
                ended: false,
                token: None,
                members: None,
            }),
        }
    }

    /// Calls `f` with what is under the lock.
    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Shared<T>) -> R) -> R {
        f(&mut lock(&self.shared))
    }

    /// The figures, when the scope closes. `spawned` is the number of tasks.
    pub(crate) fn figures(&self, spawned: usize) -> TaskFigures {
        self.with(|shared| match &shared.members {
            Some(members) => members.figures(spawned),
            // Tasks make them.
            None => TaskFigures::default(),
        })
    }

    /// Starts again, for a scope that closes with its only handle and was not cancelled. The tokens are cancelled.
    pub(crate) fn finish(&self) {
        self.with(Shared::reset).cancel();
    }

    /// Starts again, between two requests.
    pub(crate) fn reset(&self) {
        drop(self.with(Shared::reset));
    }
}

impl<T: Supervised + 'static> Group<T> {
    /// The request was cancelled when a task was started.
    #[cold]
    pub(crate) fn request_cancelled(&self, at: Instant) {
        self.with(|shared| shared.members().alive.cancelled(at));
    }

    /// Has `waker` woken when the request is cancelled, for what is no task of it, and returns its number. The
    /// caller looks afterwards whether it is cancelled (invariants 3 and 5).
    pub(crate) fn wait(&self, waker: &Waker, user: User) -> usize {
        let waker = waker.clone();
        self.with(|shared| {
            shared.begin(user);
            shared.members().alive.wait(waker)
        })
    }

    /// As [`wait`](Self::wait), for the task, or what waits, of this number.
    pub(crate) fn watch(&self, index: usize, waker: &Waker) {
        // Cloned and dropped without the lock, since that may call any code.
        let mut waker = Some(waker.clone());
        self.with(|shared| shared.members().alive.watch(index, &mut waker));
        drop(waker);
    }

    /// Returns a token that is cancelled when the request is. The caller looks afterwards whether it is
    /// cancelled (invariants 3 and 5).
    pub(crate) fn token(&self, user: User) -> CancellationToken {
        self.with(|shared| {
            shared.begin(user);
            shared.add_token()
        })
    }

    /// Whether it is used by a request of this layer that has made tokens.
    pub(super) fn has_tokens(&self, layer: usize) -> bool {
        self.with(|shared| shared.is_of(layer) && shared.token.is_some())
    }

    /// Wakes the tasks of a request that was cancelled at `at`, and what waits for that, and cancels its tokens.
    /// Then does the same for the requests that the request has sent. Returns the number of these.
    pub(crate) fn cancel(&self, at: Option<Instant>) -> usize {
        self.cancel_if(at, |_| true)
    }

    /// As [`cancel`](Self::cancel), when a shutdown of this layer has begun, if the request follows it.
    pub(crate) fn follow_shutdown(&self, layer: usize) {
        let _ = self.cancel_if(None, |shared| shared.follows_shutdown(layer));
    }

    fn cancel_if(&self, at: Option<Instant>, is_it: impl FnOnce(&Shared<T>) -> bool) -> usize {
        // Not under the lock, since waking may call any code.
        let woken = self.with(|shared| {
            if !is_it(shared) {
                return None;
            }
            let tokens = shared.take_tokens();
            let Some(members) = &mut shared.members else {
                return Some((tokens, Wakers::default(), Vec::new()));
            };
            if let Some(at) = at.filter(|_| members.alive.tasks().next().is_some()) {
                members.alive.cancelled(at);
            }
            let rare = members.rare.as_ref();
            let dependents = rare.map_or_else(Vec::new, |rare| rare.dependents());
            Some((tokens, members.alive.take_wakers(), dependents))
        });
        let Some((tokens, wakers, mut dependents)) = woken else {
            return 0;
        };
        tokens.cancel();
        wakers.wake();
        let count = dependents.len();
        for group in dependents.drain(..) {
            group.cancel(None);
        }
        free_list(dependents);
        count
    }

    /// Adds the group of a request that this one's has sent, and returns its place (invariant 4).
    pub(crate) fn add_dependent(&self, group: &Counted<Self>, user: User) -> usize {
        self.with(|shared| {
            shared.begin(user);
            insert_shared(&mut shared.members().rare().dependents, group.clone())
        })
    }

    /// Removes the dependent of a place, if it is `group`.
    pub(crate) fn remove_dependent(&self, place: usize, group: &Counted<Self>) {
        let removed = self.with(|shared| {
            let rare = shared.members.as_mut()?.rare.as_mut()?;
            let dependent = rare.dependents.get(place)?;
            let is_it = dependent.is_same(group);
            is_it.then(|| rare.dependents.remove(place))
        });
        drop(removed);
    }

    /// When the request ended, if it has.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.with(|shared| {
            let members = shared.members.as_ref()?;
            members.alive.ending.as_ref()?.ended
        })
    }

    /// Removes a task that has ended, or what waits no more. A task of a cancelled request has ended at `at`. Returns
    /// the reference of the group, which no other thread can clone any more.
    pub(crate) fn remove(&self, index: usize, at: Option<Instant>) -> Option<Counted<T>> {
        let (removed, idle) = self.with(|shared| {
            let alive = &mut shared.members().alive;
            if at.is_some() {
                let ending = alive.ending();
                ending.last_end = ending.last_end.max(at);
            }
            alive.remove(index)
        });
        if let Some((key, housekeeping)) = idle {
            housekeeping.cancel(key);
        }
        removed?.task
    }

    /// The tasks that are alive.
    pub(super) fn tasks(&self, layer: usize) -> Vec<Counted<T>> {
        self.with(|shared| {
            if shared.is_of(layer) {
                shared.tasks().cloned().collect()
            } else {
                Vec::new()
            }
        })
    }

    /// The number of tasks that are alive, if it is used by a request of this layer.
    pub(super) fn count(&self, layer: usize) -> usize {
        self.with(|shared| usize::from(shared.is_of(layer)) * shared.tasks().count())
    }

    /// A reference, if it is used by a request of this layer that a shutdown cancels.
    pub(crate) fn following_shutdown(this: &Counted<Self>, layer: usize) -> Option<Counted<Self>> {
        this.with(|shared| shared.follows_shutdown(layer).then(|| this.clone()))
    }

    /// A task still ran when its grace period was over.
    pub(super) fn overran(&self, report: TaskReport, given_up: bool) {
        self.with(|shared| {
            let rare = shared.members().rare();
            if given_up {
                rare.given_up += 1;
            } else {
                rare.aborted += 1;
            }
            let overruns = &mut rare.overruns;
            if overruns.len() < MAX_NAMED {
                overruns.push(report);
            }
        });
    }

    /// A group that is in no list, for a model, which has no statics.
    #[cfg(all(test, tower_memory_loom))]
    pub(crate) fn new_unlisted() -> Counted<Self> {
        Counted::new(Self::unused())
    }

    #[cfg(all(test, tower_memory_loom))]
    pub(crate) fn is_told(&self) -> bool {
        self.with(|shared| {
            let ended = shared.ended;
            ended && shared.members().alive.ending().cancelled.is_some()
        })
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}
