use std::{fmt, task::Waker};

use slab::Slab;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    report::{TaskFigures, TaskReport},
    supervision::{Alive, Supervised, Terms},
    tokens::Tokens,
};
use crate::{
    account::aside,
    counted::Counted,
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
/// 1. A thread that starts a task, or begins to wait, notes in the lifecycle's word that the group is used, and
///    then reads the request's state by a read-modify-write. A thread that changes that state looks for the
///    note afterwards. So of "task started" and "request ended" (or "cancelled") the later one sees the
///    earlier, and records the moment here.
/// 2. A task of a cancelled request records its end before it lets the scope close, so the scope reads
///    the last end of all.
/// 3. A task that waits has its waker listed, and looks afterwards whether its request is cancelled. A
///    thread that cancels takes the wakers afterwards, under the same lock. So of "listed" and
///    "cancelled" the later one sees the earlier: the task is woken, or goes on by itself. A token that is made
///    is listed in the same way, and cancelled instead of woken.
/// 4. A group is listed as a dependent of the group of the request that has sent its own, and its thread
///    then reads that request's state by a read-modify-write. So 1 and 3 hold for that request, too.
/// 5. A shutdown begins, and then locks each group that exists. A thread that lists something in a group looks
///    afterwards whether a shutdown has begun. So of "listed" and "shut down" the later one sees the earlier.
pub(crate) struct Group<T> {
    shared: Mutex<Shared<T>>,
}

/// The part under the lock: what a request needs that has made one token.
pub(super) struct Shared<T> {
    /// The layer of the request, by its address; zero between two requests.
    layer: usize,
    /// Whether a shutdown of the layer cancels the request.
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
    pub(super) spawned: usize,
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

impl<T> Members<T> {
    fn rare(&mut self) -> &mut Rare<T> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                aborted: 0,
                given_up: 0,
                overruns: Vec::new(),
                dependents: Slab::new(),
            })
        })
    }

    fn figures(&self) -> TaskFigures {
        let rare = self.rare.as_ref();
        let (aborted, given_up) = rare.map_or((0, 0), |rare| (rare.aborted, rare.given_up));
        let ending = self.alive.ending.as_ref();
        let latency = ending.and_then(|ending| match (ending.cancelled, ending.last_end) {
            (Some(cancelled), Some(last)) => last.checked_duration_since(cancelled),
            _ => None,
        });
        TaskFigures {
            spawned: self.spawned,
            aborted,
            given_up,
            cancel_latency: latency.filter(|_| given_up == 0),
            overruns: rare.map_or_else(Vec::new, |rare| rare.overruns.clone()),
        }
    }

    fn reset(&mut self) {
        self.alive.reset();
        self.spawned = 0;
        self.rare = None;
    }
}

impl<T> Shared<T> {
    /// Begins to be used by a request, if it is not.
    #[inline]
    pub(super) fn begin(&mut self, terms: impl FnOnce() -> Terms) {
        if self.layer == 0 {
            let terms = terms();
            (self.layer, self.follows_shutdown) = (terms.layer, terms.follows_shutdown);
        }
    }

    /// Whether it is used by a request of this layer.
    fn is_of(&self, layer: usize) -> bool {
        self.layer == layer
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
                spawned: 0,
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

    fn figures(&self) -> TaskFigures {
        let members = self.members.as_ref();
        members.map_or_else(TaskFigures::default, |members| members.figures())
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

    /// The figures, when the scope closes.
    pub(crate) fn figures(&self) -> TaskFigures {
        self.with(|shared| shared.figures())
    }

    /// As [`figures`](Self::figures), for a scope that closes with its only handle: the group starts again, and
    /// the tokens are cancelled.
    pub(crate) fn finish(&self) -> TaskFigures {
        let (figures, tokens) = self.with(|shared| (shared.figures(), shared.reset()));
        tokens.cancel();
        figures
    }

    /// Starts again, between two requests.
    pub(crate) fn reset(&self) {
        drop(self.with(Shared::reset));
    }
}

impl<T: Supervised + 'static> Group<T> {
    /// The request was cancelled. The tasks that wait are not woken yet.
    pub(crate) fn request_cancelled(&self, at: Instant) {
        self.with(|shared| _ = shared.members().alive.ending().cancelled.get_or_insert(at));
    }

    /// Has `waker` woken when the request is cancelled, for what is no task of it, and returns its number. The
    /// caller looks afterwards whether it is cancelled (invariants 1, 3 and 5).
    pub(crate) fn wait(&self, waker: &Waker, terms: impl FnOnce() -> Terms) -> usize {
        let waker = waker.clone();
        self.with(|shared| {
            shared.begin(terms);
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
    /// cancelled (invariants 1, 3 and 5).
    pub(crate) fn token(&self, terms: impl FnOnce() -> Terms) -> CancellationToken {
        self.with(|shared| {
            shared.begin(terms);
            shared.add_token()
        })
    }

    /// Whether it is used by a request of this layer that has made tokens.
    pub(super) fn has_tokens(&self, layer: usize) -> bool {
        self.with(|shared| shared.is_of(layer) && shared.token.is_some())
    }

    /// Wakes the tasks of a request that is cancelled, and what waits for that, and cancels its tokens.
    pub(crate) fn wake_tasks(&self) {
        // Not under the lock, since waking may call any code.
        let (few, more, tokens) = self.with(|shared| {
            let members = shared.members.as_mut();
            let wakers = members.map(|members| members.alive.take_wakers());
            let (few, more) = wakers.unwrap_or_default();
            (few, more, shared.take_tokens())
        });
        tokens.cancel();
        for waker in few.into_iter().flatten().chain(more) {
            waker.wake();
        }
    }

    /// Does the same for the requests that the request has sent. Returns the number of these.
    pub(crate) fn wake_dependents(&self) -> usize {
        let clone_all = |dependents: &Slab<Counted<Self>>| {
            let clones = dependents.iter().map(|(_, group)| group.clone());
            clones.collect::<Vec<_>>()
        };
        let dependents = self.with(|shared| {
            let members = shared.members.as_ref();
            let rare = members.and_then(|members| members.rare.as_ref());
            rare.map_or_else(Vec::new, |rare| clone_all(&rare.dependents))
        });
        for group in &dependents {
            group.wake_tasks();
            group.wake_dependents();
        }
        dependents.len()
    }

    /// Adds the group of a request that this one's has sent, and returns its place (invariant 4).
    pub(crate) fn add_dependent(
        &self,
        group: &Counted<Self>,
        terms: impl FnOnce() -> Terms,
    ) -> usize {
        self.with(|shared| {
            shared.begin(terms);
            shared.members().rare().dependents.insert(group.clone())
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

    /// Removes a task that has ended, or what waits no more. A task of a cancelled request has ended at `at`.
    pub(crate) fn remove(&self, index: usize, at: Option<Instant>) {
        let (task, idle) = self.with(|shared| {
            let alive = &mut shared.members().alive;
            if at.is_some() {
                let ending = alive.ending();
                ending.last_end = ending.last_end.max(at);
            }
            alive.remove(index)
        });
        drop(task);
        if let Some((key, housekeeping)) = idle {
            housekeeping.cancel(key);
        }
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
        // Cloned under the lock under which the request resets the group. So a scope that keeps the group sees the
        // reference, and the group of a later request is never woken for this one.
        this.with(|shared| {
            let follows = shared.is_of(layer) && shared.follows_shutdown;
            follows.then(|| this.clone())
        })
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
