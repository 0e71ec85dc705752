//! A request and the limit of the process.

use std::{task::Waker, time::Duration};

use super::{handle::RequestScope, state::ScopeState};
use crate::{
    account::Totals,
    cancel::{CancelReason, Outcome},
    counted::Counted,
    limit::{LayerLimit, Pressure, Priority, Refusal, Relief, Stage, Victim},
    pool::ArenaPool,
    route::RouteKey,
    sync::lock,
};

/// How much less of their time idle bodies have at the most.
const MOST_LESS: f64 = 0.75;

// `MemoryLayerBuilder::body_idle_timeout` says so.
const _: () = assert!(1.0 - MOST_LESS == 0.25);

impl ScopeState {
    pub(super) fn key(&self) -> RouteKey {
        RouteKey {
            route: self.route.number(),
            method: self.method,
        }
    }

    /// A section of the request has ended.
    #[inline]
    pub(super) fn section_ended(this: &Counted<Self>) {
        if let Some(limit) = &this.layer().limit {
            // Small requests never come to more.
            if this.account.has_held(LayerLimit::NOTABLE) {
                Self::look_at_held(this, limit);
            }
        }
    }

    #[inline(never)]
    fn look_at_held(this: &Counted<Self>, limit: &LayerLimit) {
        let held = this.account.held();
        if LayerLimit::has_changed(&this.claim, held) {
            Self::tell(this, limit, held);
        }
    }

    #[cold]
    #[inline(never)]
    fn tell(this: &Counted<Self>, limit: &LayerLimit, held: Option<u64>) {
        limit.changed(&this.claim, this.key(), held, || {
            (this.clone().into_victim(), this.limits.age())
        });
    }

    /// The request closes. `is_alone` says that it has no other handle, `random` is a number that differs from
    /// one to the next.
    #[inline(never)]
    pub(super) fn claim_closed(
        &self,
        limit: &LayerLimit,
        key: RouteKey,
        heap: Option<&Totals>,
        is_alone: bool,
        random: u64,
    ) {
        let peak = heap.and_then(|heap| heap.peak_bytes);
        if let Some(warning) = limit.closed(&self.claim, key, peak, is_alone, random) {
            warning.log(&self.layer().routes.route(key.route).label);
        }
    }

    /// The request is moved to another route.
    pub(super) fn claim_moved(&self, to: usize) {
        if let Some(limit) = &self.layer().limit {
            let method = self.method;
            limit.relabelled(&self.claim, RouteKey { route: to, method });
        }
    }
}

impl RequestScope {
    /// Admits the request, or refuses it. Called once, before anything else can use the scope. `is_new` says
    /// that the request was not called before the scope was opened.
    #[inline]
    pub(crate) fn admit(&self, priority: Option<Priority>, is_new: bool) -> Result<(), Refusal> {
        let state = self.state();
        match &state.layer().limit {
            None => Ok(()),
            Some(limit) => {
                let now = is_new.then(|| state.limits.start.into_std());
                if let Some(warning) = limit.admit(&state.claim, state.key(), priority, now)? {
                    warning.log(&state.route().label);
                }
                Ok(())
            }
        }
    }

    /// The priority of the route's requests to come.
    pub(crate) fn set_route_priority(&self, priority: Priority) {
        let state = self.state();
        if let Some(limit) = &state.layer().limit {
            limit.learn_priority(state.key(), priority);
        }
    }

    /// Why the request ends although its handler goes on: it holds too much.
    #[inline]
    pub(crate) fn exceeded(&self) -> Option<CancelReason> {
        if self.is_over_budget() {
            return Some(CancelReason::new(Outcome::MemoryExceeded));
        }
        let cancel = &self.state().cancel;
        if cancel.is_new() {
            return None;
        }
        cancel
            .reason()
            .filter(|reason| *reason == Outcome::MemoryPressure)
    }

    /// Why the request is cancelled, if that is to free memory.
    pub(crate) fn cancelled_for_memory(&self) -> Option<CancelReason> {
        let reason = self.state().cancel.reason();
        reason.filter(|reason| *reason == Outcome::MemoryPressure)
    }

    /// Whether the request may be cancelled to free memory: it is listed for that, or it has a body that streams.
    #[inline]
    pub(crate) fn may_be_victim(&self, streams: bool) -> bool {
        let state = self.state();
        state.layer().limit.is_some() && (streams || state.claim.is_listed())
    }

    /// Has `taker` woken when the request is cancelled to free memory and the server has had time to see it.
    #[inline]
    pub(crate) fn set_body_taker(&self, taker: Option<Waker>) {
        if taker.is_some() || self.state().rare.get().is_some() {
            self.replace_body_taker(taker);
        }
    }

    #[inline(never)]
    fn replace_body_taker(&self, taker: Option<Waker>) {
        let state = self.state();
        let taker_of = || lock(&state.rare().body_taker);
        let is_set = taker.is_some();
        let former = std::mem::replace(&mut *taker_of(), taker);
        // It may own the last reference to the body.
        drop(former);
        // The request is cancelled once. Of "set" and "cancelled" the later one sees the earlier.
        if is_set && state.cancel.is_cancelled_now() && self.cancelled_for_memory().is_some() {
            let taker = taker_of().clone();
            if let Some(taker) = taker {
                taker.wake();
            }
        }
    }

    /// By how much the time between two frames of the body is less than was set, since memory is tight: three
    /// quarters at the most.
    pub(crate) fn idle_time_less(&self) -> Duration {
        let state = self.state();
        let idle = state.limits.body_idle();
        match (&state.layer().limit, idle) {
            (Some(limit), Some(idle)) => idle.mul_f64(MOST_LESS * limit.level()),
            _ => Duration::ZERO,
        }
    }

    /// After how long to look at an idle body again, since its time may have become less.
    pub(crate) fn looks_at_idle_body(&self) -> Option<Duration> {
        let state = self.state();
        state.layer().limit.as_ref()?;
        Some(state.limits.body_idle()?.mul_f64(1.0 - MOST_LESS))
    }

    /// Returns how tight the process's memory is; `None` if the layer has no
    /// [limit for it](crate::middleware::MemoryLayerBuilder::process_limit).
    ///
    /// # Examples
    ///
    /// See [`Pressure`].
    #[must_use]
    pub fn pressure(&self) -> Option<Pressure> {
        let limit = self.state().layer().limit.as_ref()?;
        Some(limit.pressure())
    }
}

impl Victim for ScopeState {
    fn held(&self) -> Option<u64> {
        self.account.held()
    }

    fn is_chosen(&self, enforces: bool) -> bool {
        if enforces {
            self.cancel.reason().is_some()
        } else {
            self.claim.is_counted()
        }
    }

    fn cancel_for_memory(&self) -> bool {
        self.cancel(CancelReason::new(Outcome::MemoryPressure));
        self.limits.wake();
        let taker = self
            .rare
            .get()
            .and_then(|rare| lock(&rare.body_taker).clone());
        if let Some(taker) = taker {
            // It looks again a moment later if the server may still notice by itself.
            taker.wake();
        }
        self.cancel
            .reason()
            .is_some_and(|reason| reason == Outcome::MemoryPressure)
    }

    fn count_would_cancel(&self) {
        self.claim.count();
        if let Some(limit) = &self.layer().limit {
            limit.count_would_cancel(self.key());
        }
    }
}

/// A layer's pool gives memory back when it is tight.
#[derive(Debug)]
pub(crate) struct PoolRelief(pub(crate) ArenaPool);

impl PoolRelief {
    /// What waits may take this part of the limit, or of what is left of it.
    const SHARE: u64 = 8;

    /// The most that a pool keeps where `bytes` may be used.
    pub(crate) fn most(bytes: u64) -> usize {
        usize::try_from(bytes / Self::SHARE).unwrap_or(usize::MAX)
    }
}

/// The pool may outlive the layer, and nothing else restores what it may keep.
impl Drop for PoolRelief {
    fn drop(&mut self) {
        self.0.cap(None);
    }
}

impl Relief for PoolRelief {
    fn relieve(&self, stage: Stage, spare: u64) {
        match stage {
            Stage::Normal => self.0.cap(None),
            Stage::Trim => {
                self.0.cap(Some(Self::most(spare)));
                self.0.age();
            }
            _ => {
                self.0.cap(Some(0));
                self.0.trim();
            }
        }
    }
}
