//! Requests that a request's handler sends: how they are told from it, and their own paths.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{handle::RequestScope, label::LabelSource, layer::LayerState, state::ScopeState};
use crate::{
    counted::Counted,
    deadline::CallLimits,
    route::{RouteKey, RouteRegistry},
    sync::{Arc, Ordering},
    task::{TaskFigures, TaskGroup, Terms, User},
};

/// The part of a matched path that does not come from the parent's.
pub(crate) fn own_path<'a>(parent: Option<&str>, matched: &'a str) -> Option<&'a str> {
    let own = parent.and_then(|parent| matched.strip_prefix(parent));
    Some(own.unwrap_or(matched)).filter(|own| !own.is_empty())
}

impl ScopeState {
    /// Returns a token of its own that is cancelled when the request is.
    pub(super) fn child_token(&self) -> CancellationToken {
        let token = self.group_to_wait().token(self.user());
        // Invariants 3 and 5 of `TaskGroup`.
        if self.reason().is_some() {
            token.cancel();
        }
        token
    }

    /// What the tasks share. The first task of any request of this scope makes it.
    #[inline]
    pub(super) fn group(&self) -> &Counted<TaskGroup> {
        let group = match self.noted_group() {
            Some(group) => group,
            None => self.make_group(),
        };
        if self.rare.get().is_some() {
            self.depend(group);
        }
        group
    }

    /// As [`group`](Self::group), to list something that does not take itself out before the scope is closed.
    #[inline]
    pub(super) fn group_to_wait(&self) -> &Counted<TaskGroup> {
        // Relaxed: read by the thread that has the scope to itself.
        self.listed_waits.store(true, Ordering::Relaxed);
        self.group()
    }

    /// The group, if the scope has one. The request may not have used it.
    #[inline]
    pub(super) fn noted_group(&self) -> Option<&Counted<TaskGroup>> {
        if self.cancel.has_group() {
            self.tasks.get()
        } else {
            None
        }
    }

    #[cold]
    fn make_group(&self) -> &Counted<TaskGroup> {
        let group = self.tasks.get_or_init(TaskGroup::new_listed);
        // Invariant 1 of `TaskGroup`. Also if another thread has made it and not noted it yet.
        self.cancel.note_group();
        group
    }

    /// The request, for its group.
    #[inline]
    pub(super) fn user(&self) -> User {
        User {
            layer: self.layer().address(),
            follows_shutdown: !self.is_spared(),
        }
    }

    /// What is the same for all tasks of the request.
    pub(super) fn terms(&self) -> Terms {
        let layer = self.layer();
        Terms {
            grace: layer.grace,
            housekeeping: layer.housekeeping.clone(),
        }
    }

    /// Makes the group a dependent of the parent's, if there is one.
    fn depend(&self, group: &Counted<TaskGroup>) {
        let rare = self.rare();
        let Some(parent) = &rare.parent else {
            return;
        };
        rare.depends.get_or_init(|| {
            // Invariant 4 of `TaskGroup`. The reason is read when a task waits.
            let parents = parent.group_to_wait();
            parents.add_dependent(group, parent.user())
        });
    }

    /// The figures of the request's tasks, if there were any, for a scope that has a single handle, or is closed. It
    /// was not cancelled if it `is_plain`.
    #[inline]
    pub(super) fn task_figures(&self, is_plain: bool) -> Option<TaskFigures> {
        // Relaxed: written by threads that have had a handle, or whose task has ended.
        let spawned = self.spawned.load(Ordering::Relaxed) as usize;
        if spawned == 0 {
            return None;
        }
        match self.noted_group().filter(|_| !is_plain) {
            Some(group) => Some(group.figures(spawned)),
            None => Some(TaskFigures {
                spawned,
                ..TaskFigures::default()
            }),
        }
    }

    /// Takes what is no task out of the group, for a scope that closes with its only handle and was not cancelled.
    #[inline(never)]
    pub(super) fn finish_waits(&self) {
        if let Some(group) = self.noted_group() {
            group.finish();
        }
    }

    /// Releases what the tasks have shared.
    pub(super) fn release_group(&mut self) {
        let Some(group) = self.noted_group() else {
            return;
        };
        let rare = self.rare.get();
        if let Some((rare, place)) = rare.and_then(|rare| Some((rare, *rare.depends.get()?))) {
            let parent = rare.parent.as_ref();
            if let Some(parents) = parent.and_then(|parent| parent.tasks.get()) {
                parents.remove_dependent(place, group);
            }
        }
        group.reset();
        self.keep_group();
    }

    /// Keeps the group for a later request, unless something refers to it.
    #[inline]
    pub(super) fn keep_group(&mut self) {
        if !self.tasks.get().is_some_and(TaskGroup::is_kept) {
            self.forget_group();
        }
    }

    /// Removes the group.
    #[cold]
    pub(super) fn forget_group(&mut self) {
        if let Some(group) = self.tasks.take() {
            TaskGroup::forget(&group);
        }
        self.cancel.reset(false);
    }

    /// Records the path of the parent, which a router has put in front of this request's.
    pub(super) fn copied_from(&mut self, path: Option<String>) {
        self.rare_mut().parent_path = path;
    }

    /// The scope of the request that has sent this one.
    #[inline]
    pub(super) fn parent(&self) -> Option<&Counted<Self>> {
        self.rare.get()?.parent.as_ref()
    }

    fn parent_path(&self) -> Option<&str> {
        self.rare.get()?.parent_path.as_deref()
    }

    /// The request's own part of the path that a router has matched; `None` if no router has matched it
    /// since it was made of the parent's extensions.
    pub(super) fn own_path<'a>(&self, matched: &'a str) -> Option<&'a str> {
        own_path(self.parent_path(), matched)
    }

    /// The path in the request's extensions, if its own label is its own part of that.
    pub(super) fn full_path(&self) -> String {
        let mut path = self.parent_path().unwrap_or_default().to_owned();
        if self.route.is_own() {
            path.push_str(self.route().label.as_str());
        }
        path
    }
}

impl RequestScope {
    /// Opens the scope of a request that this one has sent to a policy, without any layer so far.
    pub(super) fn open_by_policy(&self, key: RouteKey, own_label: bool, start: Instant) -> Self {
        Self::open(
            self.state().layer_shard(),
            key,
            own_label,
            start,
            Some(self),
        )
    }

    /// The state of a scope that has just been opened.
    pub(super) fn unshared(&mut self) -> &mut ScopeState {
        let Some(unique) = self.state.as_mut().and_then(Counted::get_mut) else {
            unreachable!("an open scope has one handle at first");
        };
        unique
    }

    /// Sets the label of the request by the path that a router has matched, unless it has a label of its
    /// own. A clone of the handle may be another request's, whose path is not this one's.
    pub(crate) fn set_matched_path(&self, matched: &str) {
        let state = self.state();
        if self.carried && !state.route.is_own() {
            if let Some(path) = state.own_path(matched) {
                state.set_route(path, LabelSource::Router);
            }
        }
    }

    /// Sets the label by the settings of an inner layer, unless the request has a label of its own.
    pub(crate) fn set_configured_route(&self, label: &str) {
        self.state().set_route(label, LabelSource::Layer);
    }

    /// The path in the request's extensions, if its own label is its own part of that.
    pub(crate) fn full_path(&self) -> String {
        self.state().full_path()
    }

    /// The layer's table of routes.
    pub(crate) fn routes(&self) -> &RouteRegistry {
        &self.state().layer().routes
    }

    /// The handle for the extensions of the request that is passed on.
    #[inline]
    pub(super) fn carried_handle(&mut self) -> Self {
        Self {
            state: self.state.as_mut().map(Counted::clone_mut),
            carried: true,
        }
    }

    /// Whether the request whose extensions hold this handle is the one that the layer has passed on.
    /// Other requests hold a clone.
    #[inline]
    pub(crate) const fn is_carried(&self) -> bool {
        self.carried
    }

    /// Whether the scope belongs to `layer`.
    #[inline]
    pub(crate) fn is_of(&self, layer: &Arc<LayerState>) -> bool {
        Arc::ptr_eq(self.state().layer(), layer)
    }

    /// Whether a shutdown does not cancel the request.
    pub(crate) fn is_spared(&self) -> bool {
        self.state().is_spared()
    }

    /// Ends a call inside of the scope: its time, or all of its limits.
    pub(crate) fn end_call(&self, call: &mut CallLimits, has_body: bool) {
        let state = self.state();
        state.limits.end_call_time(call, state.has_head());
        if !has_body {
            state.limits.end_call_bodies(call);
        }
    }
}
