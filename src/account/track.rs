use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{
    inside::{Enter, Inside},
    ledger::{Account, Section},
};
use crate::sync::Arc;

pin_project! {
    /// A future whose polls and drop are credited to an [`Account`].
    ///
    /// Returned by [`Account::track`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_memory::{Account, TrackingAllocator};
    ///
    /// #[global_allocator]
    /// static ALLOC: TrackingAllocator = TrackingAllocator::system();
    ///
    /// let account = Arc::new(Account::new());
    /// let captured = String::with_capacity(16); // not credited
    /// let work = Account::track(&account, async move { drop(captured) });
    /// drop(work); // credited, although it was never polled
    /// let usage = account.usage().expect("installed");
    /// assert_eq!((usage.bytes_allocated, usage.bytes_deallocated), (0, 16));
    /// ```
    ///
    /// # Cancel safety
    ///
    /// It is as cancel safe as the inner future. Dropping it drops the inner future, inside the account.
    #[must_use = "futures do nothing unless polled"]
    pub struct Tracked<F> {
        #[pin]
        inside: Inside<F, Arc<Account>>,
    }
}

impl Enter for Arc<Account> {
    type Guard<'a> = Section<'a>;

    #[inline]
    fn enter(&mut self) -> Section<'_> {
        self.section()
    }
}

impl Account {
    /// Wraps `future` so that its polls and its drop run inside this account.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_memory::{Account, TrackingAllocator};
    ///
    /// #[global_allocator]
    /// static ALLOC: TrackingAllocator = TrackingAllocator::system();
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let account = Arc::new(Account::new());
    /// let bytes = Account::track(&account, async { vec![7_u8; 24] }).await;
    /// assert_eq!(bytes.len(), 24);
    /// assert_eq!(account.usage().expect("installed").bytes_allocated, 24);
    /// # }
    /// ```
    pub fn track<F>(this: &Arc<Self>, future: F) -> Tracked<F> {
        Tracked {
            inside: Inside::new(future, Arc::clone(this)),
        }
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// Panics if polled again after it returned `Ready`.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inside.poll(cx)
    }
}

impl<F> fmt::Debug for Tracked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked")
            .field("account", self.inside.place())
            .finish_non_exhaustive()
    }
}
