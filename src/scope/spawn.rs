use std::{
    panic::Location,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{
    current::{self, EnteredScope},
    handle::RequestScope,
    layer::LayerState,
    recycle,
    state::ScopeState,
};
use crate::{
    account::{Enter, Inside, Writer},
    cancel::{Aborted, Grace},
    counted::Counted,
    slab::Key,
    sync::Arc,
    task::{EnteredSpan, EnteredTask, Origin, TaskGroup, TaskHandle, TaskKind, TaskOwner, TaskRef},
};

impl RequestScope {
    /// Starts a task that belongs to the request.
    ///
    /// What it allocates is accounted to the request. When the request ends, its token is cancelled and
    /// the task gets the layer's grace period (5 s by default) to finish. Then it is dropped at its
    /// next `.await` and [reported](crate::ScopeReport::overruns) with the location of this call. The
    /// scope closes after its last task, or when it gives up on one that blocks its thread.
    ///
    /// With the `tracing` feature it runs in the span that is the current one here, as do all tasks started
    /// with a scope. Unlike a `JoinSet`, dropping the handle does not abort the task, and the response does not wait
    /// for it.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, as [`tokio::spawn`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> &'static str {
    ///     let token = scope.child_token();
    ///     scope.spawn(async move {
    ///         token.cancelled().await; // the request is over: tidy up and end
    ///     });
    ///     "started"
    /// }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.used_at(Location::caller());
        let task = ScopedTask::new(self, future, TaskKind::Async, Location::caller());
        TaskHandle::new(tokio::spawn(task))
    }

    /// Starts a task that belongs to the request and stays on this thread, so its future need not be
    /// `Send`. Otherwise as [`spawn`](Self::spawn).
    ///
    /// # Panics
    ///
    /// Panics outside of a `LocalSet`, as [`tokio::task::spawn_local`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::rc::Rc;
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> usize {
    ///     let task = scope.spawn_local(async {
    ///         let shared = Rc::new(7);
    ///         tokio::task::yield_now().await;
    ///         *shared
    ///     });
    ///     task.await.expect("neither aborted nor panicked")
    /// }
    /// ```
    #[track_caller]
    pub fn spawn_local<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.used_at(Location::caller());
        let task = ScopedTask::new(self, future, TaskKind::Async, Location::caller());
        TaskHandle::new(tokio::task::spawn_local(task))
    }

    /// Runs a blocking closure that belongs to the request, on one of the runtime's threads for
    /// blocking work.
    ///
    /// What it allocates is accounted to the request, and [`current`](Self::current) returns the
    /// scope in it. A running closure cannot be ended, so a long one should check
    /// [`is_cancelled`](Self::is_cancelled) now and then. One that still runs at the end of the grace
    /// period is given up and [reported](crate::ScopeReport::overruns) with the location of this call.
    /// The scope closes without it, and [`outliving`](crate::MemoryHandle::outliving) lists it until it
    /// returns. A closure that has not started by then never runs.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, as [`tokio::task::spawn_blocking`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> usize {
    ///     let primes = scope.spawn_blocking({
    ///         let scope = scope.clone();
    ///         move || {
    ///             (2..10_000_usize)
    ///                 .take_while(|_| !scope.is_cancelled())
    ///                 .filter(|n| (2..*n).all(|d| n % d != 0))
    ///                 .count()
    ///         }
    ///     });
    ///     primes.await.expect("neither aborted nor panicked")
    /// }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<F, T>(&self, f: F) -> TaskHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.used_at(Location::caller());
        let guard = TaskGuard::new(self, TaskKind::Blocking, Location::caller());
        let closure = Inside::new(async { f() }, guard);
        TaskHandle::new(tokio::task::spawn_blocking(move || {
            let closure = pin!(closure);
            if !closure.place().record.begin_closure() {
                return Err(Aborted);
            }
            match closure.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(output) => Ok(output),
                Poll::Pending => unreachable!("a closure returns"),
            }
        }))
    }

    /// Starts a task that is meant to outlive the request, for example one that writes an audit log or
    /// fills a cache.
    ///
    /// It has an account of its own and keeps nothing of the request alive. It is not ended by the
    /// request, its deadline, or a shutdown, which only waits for it. It is counted under `name` (see
    /// [`MemoryHandle::detached`](crate::MemoryHandle::detached)); names beyond 256 share `{other}`.
    /// [`current`](Self::current) does not return the scope in it.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, as [`tokio::spawn`] does.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::RequestScope;
    ///
    /// async fn handler(scope: RequestScope) -> &'static str {
    ///     scope.detach("audit", async {
    ///         // written whether or not the client waits for its response
    ///     });
    ///     "accepted"
    /// }
    /// ```
    #[track_caller]
    pub fn detach<F>(&self, name: &'static str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = DetachedGuard::new(self, name, Location::caller());
        let task = Inside::new(future, guard);
        TaskHandle::new(tokio::spawn(async move { Ok(task.await) }))
    }
}

/// Keeps a task in its request's group while it exists, and its scope open until it is gone or given up.
struct TaskGuard {
    record: TaskRef,
    /// `None` only while the scope is entered or the guard is dropped.
    scope: Option<Counted<ScopeState>>,
    /// The task's number in the group.
    index: usize,
}

impl TaskGuard {
    fn new(scope: &RequestScope, kind: TaskKind, location: &'static Location<'static>) -> Self {
        let state = scope.state();
        let group = state.group();
        let ended = state.lifecycle.task_started();
        let [owner, own] = state.clone_twice();
        let mut record = TaskRef::new(kind, location, Origin::Request(owner.into_owner()));
        let listed = record.share();
        let terms = || state.terms();
        let index = TaskGroup::add(group, listed, &state.spawned, state.user(), terms);
        // Invariant 3 of `TaskGroup`.
        if state.cancel.reason().is_some() {
            group.request_cancelled(Instant::now());
        }
        if ended {
            state.record_end();
        }
        Self {
            record,
            scope: Some(own),
            index,
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let Some(state) = self.scope.take() else {
            unreachable!("an entered scope is borrowed by its guard");
        };
        let end = state.reason().is_some().then(Instant::now);
        // Records the end before the scope may close.
        let listed = state.group().remove(self.index, end);
        if self.record.unlisted(listed) && !bug!("task-never-uncounted") {
            state.release_task();
        }
        // A shutdown that begins later does not find the task.
        let layer = state.layer();
        let layer = layer.shutdown.has_begun().then(|| Arc::clone(layer));
        // The last handle recycles the scope. The shutdown is notified after that.
        match self.record.end() {
            Some(Origin::Request(owner)) => recycle::drop_handles(state, owner),
            _ => recycle::drop_handle(state),
        }
        if let Some(layer) = layer {
            layer.shutdown.changed();
        }
    }
}

impl Enter for TaskGuard {
    // Left in this order: the task's account, the scope, the span.
    type Guard<'a> = (EnteredTask<'a>, EnteredScope<'a>, EnteredSpan<'a>);

    fn enter(&mut self) -> Self::Guard<'_> {
        let span = self.record.span.enter();
        let scope = current::enter_untraced(&mut self.scope, Writer::Shared);
        (self.record.enter(), scope, span)
    }
}

pin_project! {
    /// The future of a spawned task, polled and dropped inside its scope.
    pub(super) struct ScopedTask<F> {
        #[pin]
        future: Option<F>,
        guard: TaskGuard,
        grace: Grace,
    }

    impl<F> PinnedDrop for ScopedTask<F> {
        fn drop(this: Pin<&mut Self>) {
            if this.future.is_some() {
                let mut this = this.project();
                let _entered = this.guard.enter();
                this.future.set(None);
            }
        }
    }
}

impl<F> ScopedTask<F> {
    #[inline]
    pub(super) fn new(
        scope: &RequestScope,
        future: F,
        kind: TaskKind,
        location: &'static Location<'static>,
    ) -> Self {
        Self {
            future: Some(future),
            guard: TaskGuard::new(scope, kind, location),
            grace: Grace::default(),
        }
    }
}

impl<F: Future> Future for ScopedTask<F> {
    type Output = Result<F::Output, Aborted>;

    /// The future is polled first, so one that completes at the last moment has completed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let index = this.guard.index;
        let (entered, ..) = &this.guard.enter();
        let task = entered.record;
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            panic!("task polled after completion");
        };
        let output = match future.poll(cx) {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => {
                if !this.grace.has_begun() {
                    if !task.watch(index, cx.waker()) {
                        return Poll::Pending;
                    }
                    this.grace.begin(task.grace());
                }
                if !this.grace.is_over(cx) {
                    return Poll::Pending;
                }
                // Before the future is dropped, since that may panic.
                task.overran(false, false);
                Err(Aborted)
            }
        };
        this.future.set(None);
        Poll::Ready(output)
    }
}

/// Keeps a detached task in the layer's list while it exists.
struct DetachedGuard {
    name: &'static str,
    record: TaskRef,
    /// Its place in the layer's list.
    key: Key,
    layer: Arc<LayerState>,
}

impl DetachedGuard {
    fn new(scope: &RequestScope, name: &'static str, location: &'static Location<'static>) -> Self {
        let state = scope.state();
        let layer = Arc::clone(state.layer());
        let ended = Arc::clone(state.rare().detached_from.get_or_init(Arc::default));
        if state.lifecycle.is_ended_now() {
            state.record_end();
        }
        let name = layer.tasks.names.started(name);
        let route = scope.route();
        let id = state.route().id;
        let origin = Origin::Detached {
            name,
            route,
            id,
            ended,
        };
        let mut record = TaskRef::new(TaskKind::Detached, location, origin);
        let key = layer.tasks.detached.insert(record.share());
        Self {
            name,
            record,
            key,
            layer,
        }
    }
}

impl Drop for DetachedGuard {
    fn drop(&mut self) {
        let tasks = &self.layer.tasks;
        drop(tasks.detached.remove(self.key));
        tasks.names.ended(self.name, self.record.bytes());
        self.layer.shutdown.changed();
    }
}

impl Enter for DetachedGuard {
    type Guard<'a> = (EnteredTask<'a>, EnteredSpan<'a>);

    fn enter(&mut self) -> Self::Guard<'_> {
        let span = self.record.span.enter();
        (self.record.enter(), span)
    }
}
