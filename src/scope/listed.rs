//! How a request comes into the list of open ones, and out of it.

use tokio::time::Instant;

use super::{
    handle::RequestScope, layer::RouteFigures, live::LiveRequest, open::OpenScope,
    open_list::OpenList, state::ScopeState,
};
use crate::{counted::Counted, slab::Key, sync::Ordering};

impl ScopeState {
    /// What is known of the open request.
    pub(super) fn describe(&self, now: Instant) -> LiveRequest {
        let usage = self.account.usage();
        let deadline = self.limits.visible_deadline();
        LiveRequest {
            id: self.id(),
            method: self.method.as_str(),
            route: self.route().label.clone(),
            age: now.saturating_duration_since(self.limits.start),
            deadline_left: deadline.map(|(at, _)| at.saturating_duration_since(now)),
            status: self.status(),
            cancelled: self.cancel.reason().map(|reason| reason.outcome()),
            bytes: usage.map(|usage| usage.bytes_allocated),
            allocations: usage.map(|usage| usage.allocations),
            arena_bytes: self.arena_usage().bytes,
            tasks: self.lifecycle.tasks(),
            annotations: self
                .rare
                .get()
                .map(|rare| rare.annotations.copy())
                .unwrap_or_default(),
        }
    }

    /// Removes the request from the list, if it is there. Called once, when the scope closes.
    #[inline]
    pub(super) fn unlist(&self) {
        if let Some(key) = self.listed.get() {
            self.unlist_at(key);
        }
    }

    /// Removes the request if its only other reference is the list's, so that it ends as one that was not
    /// listed.
    #[inline]
    pub(super) fn unlist_last(this: &Counted<Self>) {
        if let Some(key) = this.listed.get() {
            if this.has_references(2) {
                this.unlist_at(key);
            }
        }
    }

    #[inline(never)]
    fn unlist_at(&self, key: Key) {
        // Only the thread that closes the scope does this, or the one with the only handle.
        self.listed.clear();
        if let Some(list) = &self.layer().open_list {
            drop(list.remove(key));
        }
    }
}

impl OpenScope {
    /// Lists the request, if the layer keeps a list.
    #[inline]
    pub(super) fn list(&self) {
        let state = self.scope().state();
        if let Some(list) = &state.layer().open_list {
            Self::list_in(state, list);
        }
    }

    #[inline(never)]
    fn list_in(state: &Counted<ScopeState>, list: &OpenList) {
        // So that the figures of later requests can name it.
        let _ = state.id();
        state.listed.set(list.insert(state.clone().into_request()));
    }
}

impl ScopeState {
    /// The number of the request.
    pub(super) fn id(&self) -> u64 {
        // Relaxed: a number.
        let known = self.id.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let own = super::id::next();
        let set = self
            .id
            .compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
        set.map_or_else(|other| other, |_| own)
    }
}

impl RequestScope {
    /// What requests of the same route and method have allocated.
    pub(crate) fn route_figures(&self) -> Option<RouteFigures> {
        let state = self.state();
        state.layer().sink.route_figures(state.key())
    }

    /// Returns the number of the request, which no other request of this process has.
    ///
    /// It names the request in [`MemoryHandle::requests`](crate::MemoryHandle::requests) and in its
    /// [report](crate::ScopeReport::id). It says nothing about the client.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> String {
    ///     format!("request {}", scope.id())
    /// }
    /// # let _ = handler;
    /// ```
    #[must_use]
    pub fn id(&self) -> u64 {
        self.state().id()
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use crate::{
        counted::Counted,
        sync::{AtomicUsize, Mutex, Ordering, lock},
    };

    /// As `unlist_last` and `response_over`: a request that is taken out of the list is alone, or a reader has
    /// found it before and reads it. It closes once in any case.
    #[test]
    fn a_listed_request_closes_once_beside_a_reader() {
        loom::model(|| {
            let mut request = Counted::new(AtomicUsize::new(0));
            let list = Arc::new(Mutex::new(Some(request.clone_mut())));
            let reader = thread::spawn({
                let list = Arc::clone(&list);
                move || {
                    let found = lock(&list).clone();
                    found.map(|request| request.load(Ordering::Relaxed))
                }
            });
            let unlist = || drop(lock(&list).take());
            let mut listed = true;
            if request.has_references(2) {
                unlist();
                listed = false;
            }
            match request.get_mut() {
                // Loom fails if the reader may read at the same time.
                Some(closed) => closed.with_mut(|closed| *closed += 1),
                None => {
                    if listed {
                        unlist();
                    }
                    assert_eq!(request.fetch_add(1, Ordering::Relaxed), 0);
                }
            }
            let seen = reader.join().expect("no panic");
            assert!(seen.is_none_or(|closed| closed <= 1));
            assert!(lock(&list).is_none() && request.is_only());
            assert_eq!(request.load(Ordering::Relaxed), 1);
        });
    }
}
