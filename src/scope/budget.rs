//! What a request may hold.

use super::{handle::RequestScope, policy::RoutePolicy, state::ScopeState};
use crate::{
    account::Budget,
    cancel::{CancelReason, Cancelled, Exceeded, Outcome},
    deadline::Rule,
    limit::LayerLimit,
    sync::Ordering,
};

/// What a response that was ready over its limit may take to be sent.
const TO_SEND: u64 = 64 << 10;

/// The limit that was in force before a call.
#[derive(Debug)]
pub(crate) struct CallBudget {
    former: Option<Budget>,
    /// Whether the call's own limit is in force.
    pub(crate) is_limited: bool,
}

impl RequestScope {
    /// Sets the bytes that the request may hold from now on, in place of the limits of the layer and its
    /// policies; `usize::MAX` is no limit. A limit of a call ends with that call.
    ///
    /// What it holds already counts. See
    /// [`MemoryLayerBuilder::request_limit`](crate::middleware::MemoryLayerBuilder::request_limit) for what
    /// happens beyond.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn export(scope: RequestScope, is_admin: bool) {
    ///     if is_admin {
    ///         scope.set_request_limit(256 << 20);
    ///     }
    /// }
    /// # let _ = export;
    /// ```
    pub fn set_request_limit(&self, bytes: usize) {
        let state = self.state();
        if !state.watches_limit(Some(budget(bytes))) {
            state.replace_budget(budget(bytes));
        }
    }

    /// Returns how many bytes the request may hold beyond what it holds; `None` if there is no limit.
    ///
    /// Without an installed [`TrackingAllocator`](crate::TrackingAllocator) it is the whole limit.
    #[must_use]
    pub fn request_limit_left(&self) -> Option<u64> {
        self.state().account.budget_left()
    }

    /// Returns an error if the request is cancelled, or holds more than its limit.
    ///
    /// The line for a long loop, in handlers, tasks and blocking closures. It sees at once what was allocated
    /// in the same poll, up to 1 KiB. It costs some nanoseconds.
    ///
    /// # Errors
    ///
    /// Says why the request is cancelled. With the `axum` feature the error is a response.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{RequestScope, cancel::Cancelled};
    ///
    /// async fn report(scope: RequestScope) -> Result<Vec<u64>, Cancelled> {
    ///     let task = scope.spawn_blocking({
    ///         let scope = scope.clone();
    ///         move || {
    ///             let mut squares = Vec::new();
    ///             for n in 0..1000_u64 {
    ///                 scope.check()?;
    ///                 squares.push(n * n);
    ///             }
    ///             Ok(squares)
    ///         }
    ///     });
    ///     task.await.expect("neither aborted nor panicked")
    /// }
    /// # let _ = report;
    /// ```
    #[inline]
    pub fn check(&self) -> Result<(), Cancelled> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(self.state().cancelled_for(reason)),
        }
    }

    /// Sets the limit of a request that has just been opened and admitted.
    #[inline]
    pub(crate) fn begin_request_limit(&self, rule: Rule<usize>) {
        let state = self.state();
        match &state.layer().limit {
            Some(limit) => state.begin_default_budget(limit, rule),
            None => {
                if let Some(budget) = rule.limit.and_then(budget) {
                    state.account.begin_budget(budget);
                }
            }
        }
    }

    /// Whether the request holds more than its limit, or has since that was set.
    #[inline]
    pub(crate) fn is_over_budget(&self) -> bool {
        self.state().account.is_over_budget()
    }

    /// The error of a request that ends for `reason`, with what it holds if that is why.
    pub(crate) fn cancelled_for(&self, reason: CancelReason) -> Cancelled {
        self.state().cancelled_for(reason)
    }

    /// Ends the request, or the call, when it waits for `asked` bytes more of its body, although it does not hold
    /// too much yet.
    #[cold]
    pub(crate) fn stop_reading(&self, asked: u64) {
        let state = self.state();
        // Relaxed: a figure.
        state.rare().asked.store(asked, Ordering::Relaxed);
        state.account.exhaust_budget();
        let _ = state.reason();
        state.limits.wake();
    }

    /// Begins the limit of a call, if `policy` changes it.
    #[inline]
    pub(crate) fn begin_call_budget(&self, policy: &RoutePolicy) -> Option<CallBudget> {
        let rule = policy.request_limit;
        (rule.disable || rule.limit.is_some()).then(|| self.replace_for_call(rule))?
    }

    #[inline(never)]
    fn replace_for_call(&self, rule: Rule<usize>) -> Option<CallBudget> {
        let state = self.state();
        if state.watches_limit(applied(rule, state.watched_budget())) {
            return None;
        }
        let account = &state.account;
        let former = account.budget();
        let own = applied(rule, former)?.map(|own| Budget {
            of_call: true,
            ..own
        });
        account.set_budget(own);
        Some(CallBudget {
            former,
            is_limited: own.is_some(),
        })
    }

    /// Puts the limit back that was in force before a call.
    pub(crate) fn end_call_budget(&self, call: &CallBudget) {
        self.state().account.set_budget(call.former);
    }

    /// Applies the limit of a policy to the whole request from now on.
    pub(super) fn apply_budget(&self, policy: &RoutePolicy) {
        let state = self.state();
        let rule = policy.request_limit;
        if state.watches_limit(applied(rule, state.watched_budget())) {
            return;
        }
        if let Some(own) = applied(rule, state.account.budget()) {
            state.replace_budget(own);
        }
    }
}

/// What a rule makes of the limit in force, if it changes that.
fn applied(rule: Rule<usize>, former: Option<Budget>) -> Option<Option<Budget>> {
    let outer = former.filter(|_| !rule.disable);
    let own = rule.limit.and_then(budget);
    let own = own.filter(|own| outer.is_none_or(|outer| own.limit < outer.limit));
    (own.is_some() || outer != former).then_some(own)
}

/// The limit of a request.
fn budget(bytes: usize) -> Option<Budget> {
    let limit = bytes as u64;
    (limit <= Budget::MAX).then_some(Budget {
        limit,
        of_call: false,
    })
}

impl ScopeState {
    /// The limit of a request of a layer with a limit for the process.
    #[inline(never)]
    fn begin_default_budget(&self, limit: &LayerLimit, rule: Rule<usize>) {
        let bytes = rule.limit.or_else(|| {
            let default = usize::try_from(limit.request_limit()).ok()?;
            (!rule.disable).then_some(default)
        });
        let Some(budget) = bytes.and_then(budget) else {
            return;
        };
        if limit.enforces() {
            self.account.begin_budget(budget);
        } else {
            self.claim.watch_limit(budget.limit);
        }
    }

    /// The limit of a request that is only counted.
    fn watched_budget(&self) -> Option<Budget> {
        let limit = self.claim.watched_limit()?;
        Some(Budget {
            limit,
            of_call: false,
        })
    }

    /// Whether what the request holds is only counted, beside `own` from now on if that is a change.
    ///
    /// A request keeps the mode that it began with.
    #[inline]
    fn watches_limit(&self, own: Option<Option<Budget>>) -> bool {
        let limit = self.layer().limit.as_ref();
        let watches = limit.is_some_and(|limit| !limit.enforces());
        if let (true, Some(own)) = (watches, own) {
            self.claim
                .watch_limit(own.map_or(u64::MAX, |own| own.limit));
        }
        watches
    }

    /// Replaces the limit in force. That of a call stays one.
    fn replace_budget(&self, budget: Option<Budget>) {
        let of_call = self.account.budget().is_some_and(|former| former.of_call);
        let budget = budget.map(|budget| Budget { of_call, ..budget });
        self.account.set_budget(budget);
    }

    /// Cancels the request, which holds more than its limit. That of a call cancels the request only if the
    /// call's response becomes the request's.
    #[cold]
    pub(super) fn cancel_over_budget(&self) {
        if self.account.budget().is_some_and(|budget| !budget.of_call) {
            self.set_reason(CancelReason::new(Outcome::MemoryExceeded), None);
            self.limits.wake();
        }
    }

    /// The reason for code inside of a call that holds more than its limit.
    #[inline]
    pub(super) fn reason_of_call(&self) -> Option<CancelReason> {
        let is_over = self.account.is_over_budget();
        is_over.then(|| CancelReason::new(Outcome::MemoryExceeded))
    }

    #[cold]
    fn cancelled_for(&self, reason: CancelReason) -> Cancelled {
        let budget = self.account.budget();
        let budget = budget.filter(|_| reason == Outcome::MemoryExceeded);
        let figures = budget.map(|budget| Exceeded {
            asked: self.asked(),
            used: self.account.most_held(),
            limit: budget.limit,
        });
        Cancelled::new(reason, figures)
    }

    /// What the request was not given, if it was ended for that.
    fn asked(&self) -> Option<u64> {
        // Relaxed: a figure.
        let asked = self.rare.get()?.asked.load(Ordering::Relaxed);
        (asked > 0).then_some(asked)
    }

    /// The response is ready, and the request holds more than its limit. It is sent: the memory has been
    /// spent.
    #[cold]
    pub(super) fn answered_over_budget(&self) {
        if self.cancel.reason().is_none() {
            if let Some(budget) = self.account.budget() {
                let label = &self.route().label;
                let used = self.account.most_held();
                self.layer()
                    .sink
                    .over_limit(self.key(), label, used, budget.limit);
            }
        }
        self.account.tolerate(TO_SEND);
    }
}
