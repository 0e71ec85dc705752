//! Requests that a request's handler sends: how they are told from it, and their own paths.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{handle::RequestScope, label::LabelSource, layer::LayerState, state::ScopeState};
use crate::{counted::Counted, deadline::CallLimits, route::RouteKey, sync::Arc, task::TaskGroup};

/// The part of a matched path that does not come from the parent's.
pub(crate) fn own_path<'a>(parent: Option<&str>, matched: &'a str) -> Option<&'a str> {
    let own = parent.and_then(|parent| matched.strip_prefix(parent));
    Some(own.unwrap_or(matched)).filter(|own| !own.is_empty())
}

impl ScopeState {
    /// The request's own token, made at the first call.
    pub(super) fn own_token(&self) -> &CancellationToken {
        let token = self.cancel.token(|| {
            let token = self.parent().map_or_else(CancellationToken::new, |parent| {
                parent.own_token().child_token()
            });
            // A shutdown cancels the tokens that are listed.
            if !self.is_spared() {
                self.token.set(self.layer().tokens.insert(token.clone()));
            }
            token
        });
        // Cancels a token that was made too late for a shutdown to find it.
        let _ = self.reason();
        token
    }

    /// What the tasks share. The first task makes it.
    #[inline]
    pub(super) fn group(&self) -> &Arc<TaskGroup> {
        self.tasks.get_or_init(|| self.make_group())
    }

    fn make_group(&self) -> Arc<TaskGroup> {
        let layer = self.layer();
        let group = TaskGroup::take(self.limits.start, layer.grace, layer.housekeeping.clone());
        if let Some(parent) = self.parent() {
            parent.group().add_dependent(&group);
            // Invariant 4 of `TaskGroup`. The reason is read when a task waits.
            let _ = parent.cancel.is_cancelled_now();
        }
        group
    }

    /// Releases what the tasks have shared.
    pub(super) fn release_group(&mut self, layer: &LayerState) {
        if let Some(group) = self.tasks.take() {
            if let Some(parent) = self.parent().and_then(|parent| parent.tasks.get()) {
                parent.remove_dependent(&group);
            }
            if let Some(key) = group.listed() {
                drop(layer.waiting().remove(key));
            }
            TaskGroup::recycle(group);
        }
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

    /// The number of a label in the layer's table.
    pub(crate) fn route_number(&self, label: &str) -> usize {
        self.state().layer().routes.number(label)
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
