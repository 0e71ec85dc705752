use std::panic::Location;

use super::{handle::TaskHandle, registry::Ticket, report::TaskKind};
use crate::{
    account::Writer,
    cancel::Aborted,
    scope::{RequestScope, current},
};

impl RequestScope {
    /// Runs a blocking closure that belongs to the request, on one of the runtime's threads for
    /// blocking work.
    ///
    /// What it allocates is accounted to the request, and [`current`](Self::current) finds the
    /// scope in it. Nobody can end a closure that runs: a long one should look at
    /// [`is_cancelled`](Self::is_cancelled) now and then. One that still runs when the request has
    /// ended and the layer's grace is over is given up and
    /// [reported](crate::ScopeReport::overruns) with the place of this call; the scope closes
    /// without it, and [`outliving`](crate::MemoryHandle::outliving) lists it until it returns. One
    /// that has not found a thread by then is never run.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as [`tokio::task::spawn_blocking`]. The runtime needs its time
    /// driver as soon as the request ends before the closure.
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
        // The token first, so that it is there when the ticket asks whether it is cancelled.
        self.own_token();
        let ticket = Ticket::new(self, TaskKind::Blocking, Location::caller());
        let job = Job { f: Some(f), ticket };
        TaskHandle::new(tokio::task::spawn_blocking(move || job.run()))
    }
}

/// A closure that is run and dropped inside its scope.
struct Job<F> {
    f: Option<F>,
    // After the closure, so that the scope closes when that is gone.
    ticket: Ticket,
}

impl<F> Job<F> {
    fn run<T>(mut self) -> Result<T, Aborted>
    where
        F: FnOnce() -> T,
    {
        let (scope, record) = self.ticket.parts();
        if record.is_some_and(|record| !record.begin_closure()) {
            return Err(Aborted);
        }
        let f = self.f.take().ok_or(Aborted)?;
        let _scope = current::enter(scope, Writer::Shared);
        let _task = record.map(|record| record.enter());
        Ok(f())
    }
}

impl<F> Drop for Job<F> {
    fn drop(&mut self) {
        if self.f.is_some() {
            let (scope, record) = self.ticket.parts();
            let _scope = current::enter(scope, Writer::Shared);
            let _task = record.map(|record| record.enter());
            self.f = None;
        }
    }
}
