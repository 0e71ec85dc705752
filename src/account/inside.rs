use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

/// A place that code can run inside: an account, a scope, a task.
pub(crate) trait Enter {
    /// Leaves the place when it is dropped.
    type Guard<'a>
    where
        Self: 'a;

    fn enter(&mut self) -> Self::Guard<'_>;

    /// Called instead of a plain drop of the guard after the code has returned without a panic.
    fn returned(guard: Self::Guard<'_>) {
        drop(guard);
    }
}

/// A place that is left for good before what runs inside it: then there is nothing to enter.
impl<E: Enter> Enter for Option<E> {
    type Guard<'a>
        = Option<E::Guard<'a>>
    where
        Self: 'a;

    #[inline]
    fn enter(&mut self) -> Self::Guard<'_> {
        // A closure: rustc at `rust-version` finds that `E::enter` here needs `E: 'static`.
        self.as_mut().map(|place| place.enter())
    }

    #[inline]
    fn returned(guard: Self::Guard<'_>) {
        if let Some(guard) = guard {
            E::returned(guard);
        }
    }
}

pin_project! {
    /// A future, or a body, that is polled and dropped inside a place.
    ///
    /// The future is dropped as soon as it is ready, and before the place is.
    pub(crate) struct Inside<F, E>
    where
        E: Enter,
    {
        #[pin]
        future: Option<F>,
        place: E,
    }

    impl<F, E> PinnedDrop for Inside<F, E>
    where
        E: Enter,
    {
        fn drop(this: Pin<&mut Self>) {
            this.clear();
        }
    }
}

impl<F, E: Enter> Inside<F, E> {
    pub(crate) const fn new(future: F, place: E) -> Self {
        Self {
            future: Some(future),
            place,
        }
    }

    /// The future, until it is dropped.
    pub(crate) const fn get(&self) -> Option<&F> {
        self.future.as_ref()
    }

    pub(crate) const fn place(&self) -> &E {
        &self.place
    }

    pub(crate) fn place_mut(self: Pin<&mut Self>) -> &mut E {
        self.project().place
    }

    /// Runs `f` on the future's slot, inside the place. `f` may empty the slot.
    #[inline]
    pub(crate) fn run<T>(self: Pin<&mut Self>, f: impl FnOnce(Pin<&mut Option<F>>) -> T) -> T {
        let this = self.project();
        let guard = this.place.enter();
        let result = f(this.future);
        E::returned(guard);
        result
    }

    /// Enters the place. When the code inside has returned, it passes the guard to [`Enter::returned`].
    #[inline]
    pub(crate) fn enter<'a>(self: Pin<&'a mut Self>) -> (Pin<&'a mut Option<F>>, E::Guard<'a>) {
        let this = self.project();
        (this.future, this.place.enter())
    }

    /// Drops the future, inside the place.
    pub(crate) fn clear(self: Pin<&mut Self>) {
        if self.future.is_some() {
            self.run(|mut future| future.set(None));
        }
    }
}

impl<F: Future, E: Enter> Future for Inside<F, E> {
    type Output = F::Output;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        assert!(self.future.is_some(), "future polled after completion");
        self.run(|mut slot| {
            let Some(future) = slot.as_mut().as_pin_mut() else {
                unreachable!("checked above");
            };
            let output = ready!(future.poll(cx));
            slot.set(None);
            Poll::Ready(output)
        })
    }
}
