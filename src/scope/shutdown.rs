use std::{fmt, task::Waker};

use slab::Slab;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::live::LiveRequest;
use crate::{
    account::{Usage, aside},
    counted::Counted,
    route::RouteKey,
    slab::{ShardedSlab, insert_shared},
    sync::{AtomicBool, Mutex, OnceLock, Ordering, lock},
    task::TaskId,
};

/// A request, as a shutdown sees it.
pub(crate) trait OpenRequest: Send + Sync {
    /// Whether its scope has not closed.
    fn is_open(&self) -> bool;

    fn key(&self) -> RouteKey;

    /// What it has allocated so far, if known.
    fn usage(&self) -> Option<Usage>;

    /// What is known of it, for a list.
    fn live(&self, now: Instant) -> LiveRequest;

    /// Ends its scope, a held one only if the response is over. Returns whether this call has ended it.
    fn cut_off(&self, held: bool) -> bool;
}

/// A response body or a held connection.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) request: Counted<dyn OpenRequest>,
    pub(super) held: bool,
    pub(super) waker: Waker,
}

/// What a shutdown does not wait for: what waits for it, or is served although it has begun.
#[derive(Clone)]
pub(crate) enum Exempt {
    Request(Counted<dyn OpenRequest>),
    Task(TaskId),
}

/// Whether the layer is shutting down.
///
/// Once it has begun, each open scope *is* cancelled: a thread that reads or sets its reason reads this
/// word first. So there is no list of open scopes. Only groups of tasks are listed, since what waits in them
/// sleeps.
///
/// # Invariants
///
/// 1. `began` goes from false to true once, after `at` was set.
/// 2. A scope is counted as open before its request reads `began`, and the count is read after `began`
///    was set, all in one order (`SeqCst`). So of "opened" and "shut down" the later one sees the
///    earlier: a scope is counted, or its request is refused.
/// 3. A request or task is alive when it is listed as exempt, and until it is removed or, for a
///    request, closed. So one that is in the list, and not closed, both before and after other
///    counts are read was counted in them.
/// 4. A thread that makes a token, or begins to wait, lists that in its request's group before it reads `began`.
///    The groups are read, under the same locks, after `began` was set. So a token is found, or the thread that
///    made it cancels it.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    began: AtomicBool,
    at: OnceLock<Instant>,
    /// Notified when a scope or a task has ended, or is exempt.
    changed: Notify,
    exempt: Mutex<Slab<Exempt>>,
    /// Whether streams that have not ended are cut off. As `began`, and ordered with `streams` as that is
    /// with the tokens.
    cut_off: AtomicBool,
    /// Made with the first stream.
    streams: OnceLock<ShardedSlab<Stream>>,
}

impl Shutdown {
    pub(crate) fn begin(&self) {
        self.at.get_or_init(Instant::now);
        // SeqCst: invariant 2.
        self.began.store(true, Ordering::SeqCst);
    }

    /// Whether it has begun.
    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        // SeqCst: invariant 2. A plain load on most processors.
        self.began.load(Ordering::SeqCst)
    }

    /// When it began, if it has.
    #[inline]
    pub(crate) fn began(&self) -> Option<Instant> {
        if self.has_begun() {
            self.at.get().copied()
        } else {
            None
        }
    }

    /// Notifies a shutdown that a scope or a task has ended.
    #[inline]
    pub(crate) fn changed(&self) {
        if self.has_begun() {
            self.changed.notify_waiters();
        }
    }

    /// Lists what is not waited for. Returns its place in the list.
    pub(crate) fn exempt(&self, what: Exempt) -> usize {
        let place = insert_shared(&mut lock(&self.exempt), what);
        // Others may wait for nothing else.
        self.changed();
        place
    }

    /// Removes it from the list. The caller drops it, after the lock is released.
    pub(crate) fn remove_exempt(&self, place: usize) -> Option<Exempt> {
        lock(&self.exempt).try_remove(place)
    }

    /// The list of what is not waited for, each request and each task once.
    pub(crate) fn exempted(&self) -> Vec<Exempt> {
        let mut found = Vec::<Exempt>::new();
        for (_, exempt) in lock(&self.exempt).iter() {
            if !found.iter().any(|known| known.is_same(exempt)) {
                found.push(exempt.clone());
            }
        }
        found
    }

    pub(super) fn streams(&self) -> &ShardedSlab<Stream> {
        self.streams.get_or_init(|| aside(ShardedSlab::default))
    }

    /// What the open requests with a stream have allocated so far.
    pub(crate) fn open_usages(&self) -> Vec<(RouteKey, Usage)> {
        let Some(streams) = self.streams.get() else {
            return Vec::new();
        };
        let mut found = streams.filter_map(|stream| {
            let request = &stream.request;
            let usage = request.is_open().then(|| request.usage()).flatten()?;
            Some((request.addr(), request.key(), usage))
        });
        // A request may have several streams.
        found.sort_unstable_by_key(|request| request.0);
        found.dedup_by_key(|request| request.0);
        found
            .into_iter()
            .map(|(_, key, usage)| (key, usage))
            .collect()
    }

    /// Whether streams are cut off.
    #[inline]
    pub(crate) fn is_cut_off(&self) -> bool {
        // SeqCst, as `has_begun`.
        self.cut_off.load(Ordering::SeqCst)
    }

    /// Ends the scopes of all streams, and wakes those that are waiting, to be dropped. Returns how many
    /// scopes it has ended.
    pub(crate) fn cut_off_streams(&self) -> usize {
        self.cut_off.store(true, Ordering::SeqCst);
        let streams = self.streams().filter_map(|stream| Some(stream.clone()));
        let cut_off = |stream: &Stream| stream.request.cut_off(stream.held);
        let count = streams.iter().filter(|stream| cut_off(stream)).count();
        for stream in streams {
            stream.waker.wake();
        }
        count
    }

    /// Waits for the next scope or task that ends.
    pub(crate) fn next_change(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Exempt {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Request(one), Self::Request(other)) => one.is_same(other),
            (Self::Task(one), Self::Task(other)) => one == other,
            _ => false,
        }
    }

    /// Whether it is an open request, with this key if one is given.
    pub(crate) fn is_open_request(&self, key: Option<RouteKey>) -> bool {
        match self {
            Self::Request(request) => {
                request.is_open() && key.is_none_or(|key| key == request.key())
            }
            Self::Task(_) => false,
        }
    }

    pub(crate) const fn task(&self) -> Option<TaskId> {
        match self {
            Self::Request(_) => None,
            Self::Task(task) => Some(*task),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request(_) => "Request(..)",
            Self::Task(_) => "Task(..)",
        })
    }
}
