use std::{fmt, marker::PhantomData};

use super::{
    counters::Writer,
    frames,
    raw::{self, Budget, Kept, RecordRef},
    totals::is_installed,
    usage::{Totals, Usage},
};
#[cfg(feature = "trace")]
use crate::names::LabelWord;
use crate::names::{RouteName, TaskName};

/// Counts what a piece of code allocates and frees.
///
/// An account counts while it is *entered*: inside [`in_scope`](Self::in_scope), until the guard of
/// [`enter`](Self::enter) is dropped, or during the polls and the drop of a [`Tracked`](super::Tracked)
/// future.
///
/// Accounts nest inclusively: an outer account is also credited with the allocations of an inner one.
/// An account that is entered several times on one thread counts once, until it was left as often.
/// Any number of threads may enter an account at the same time.
///
/// # Examples
///
/// ```
/// use tower_memory::account::{Account, TrackingAllocator};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let (outer, inner) = (Account::new(), Account::new());
/// outer.in_scope(|| {
///     let kept = vec![0_u8; 10];
///     inner.in_scope(|| drop(vec![0_u8; 5]));
///     kept
/// });
/// assert_eq!(outer.usage().expect("installed").bytes_allocated, 15);
/// assert_eq!(inner.usage().expect("installed").bytes_allocated, 5);
/// ```
#[derive(Default)]
pub struct Account {
    record: RecordRef,
}

/// The result of [`Account::begin`], to be passed to [`Account::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Entry {
    /// Not countable: leaving does nothing.
    Inert,
    /// The account's frame is on this thread's stack.
    Counting,
}

impl Account {
    /// Creates an account with all counts at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an account that its owner enters with [`Writer::Exclusive`].
    pub(crate) fn owned() -> Self {
        Self {
            record: RecordRef::owned(),
        }
    }

    /// Creates an account whose allocations have the label `route` in a profile (feature `profile`), as those
    /// of requests have their route's.
    ///
    /// Takes a lock. Labels are kept for ever: 1022 in sum, and further ones share `{other}`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::Account;
    ///
    /// let nightly = Account::labelled("nightly import");
    /// assert_eq!(nightly.in_scope(|| 2 + 2), 4);
    /// ```
    #[must_use]
    pub fn labelled(route: &str) -> Self {
        let account = Self::new();
        account.set_labels(Some(RouteName::new(route)), None);
        account
    }

    /// Enters this account until the guard is dropped.
    ///
    /// The guard is `!Send`, so it cannot be held across an `.await` of a spawned future. Use
    /// [`track`](Self::track) for futures. If a guard is leaked, the account stays entered on this
    /// thread.
    ///
    /// ```compile_fail
    /// use tower_memory::Account;
    /// fn assert_send<T: Send>(_: T) {}
    /// assert_send(Account::new().enter());
    /// ```
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{Account, TrackingAllocator};
    ///
    /// #[global_allocator]
    /// static ALLOC: TrackingAllocator = TrackingAllocator::system();
    ///
    /// let account = Account::new();
    /// let guard = account.enter();
    /// let text = String::with_capacity(32);
    /// drop(guard);
    /// assert_eq!(account.usage().expect("installed").bytes_allocated, 32);
    /// # drop(text);
    /// ```
    #[inline]
    pub fn enter(&self) -> Entered<'_> {
        let section = self.section();
        // If the guard is forgotten, the record stays for this thread's stack.
        let kept = (section.entry == Entry::Counting).then(|| {
            let thread = std::ptr::from_ref(raw::block()).addr();
            self.record.keep_for_guard(thread)
        });
        Entered {
            _section: section,
            _kept: kept,
        }
    }

    /// Calls `f` inside this account.
    pub fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let _section = self.section();
        f()
    }

    /// Returns the counts so far.
    ///
    /// They include the current section of the calling thread. The current sections of other threads
    /// are added when these leave the account.
    ///
    /// Returns `None` without an installed [`TrackingAllocator`](super::TrackingAllocator), or if some
    /// allocations could not be counted: a thread had no memory for its counters, or more than 16
    /// different accounts were nested. An unknown count is absent, never too low.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        if !is_installed() {
            return None;
        }
        // A thread without a block has entered no account.
        let current = raw::own()
            .and_then(|block| frames::with(|stack| stack.current(self.record.pin(), block)));
        if self.record.is_inexact() {
            return None;
        }
        let mut heap = self.record.credited();
        if let Some(moved) = current.flatten() {
            heap = heap.plus(&moved);
        }
        Some(Usage {
            heap,
            held_bytes: self.record.held(),
            peak_bytes: self.record.peak(),
        })
    }

    /// As [`usage`](Self::usage), of an account that nothing is in.
    #[inline]
    pub(crate) fn totals(&self) -> Option<Totals> {
        (is_installed() && !self.record.is_inexact()).then(|| self.record.totals())
    }

    /// Enters the account for a guard that no user gets hold of, so it is not forgotten.
    #[inline]
    pub(super) fn section(&self) -> Section<'_> {
        Section {
            entry: self.begin(Writer::Shared),
            account: self,
            _not_send: PhantomData,
        }
    }

    /// Enters the account. Pass the result to [`leave`](Self::leave) on the same thread, while the
    /// account is borrowed.
    #[inline]
    pub(crate) fn begin(&self, writer: Writer) -> Entry {
        // Only an installed allocator gives a thread a block, and none can be entered without.
        let block = raw::block();
        let entered = frames::with(|stack| stack.enter(self.record.pin(), writer, block));
        if entered == Some(true) {
            return Entry::Counting;
        }
        self.begin_first(writer)
    }

    /// As [`begin`](Self::begin), on a thread without a block, or inside of too many accounts.
    #[cold]
    #[inline(never)]
    fn begin_first(&self, writer: Writer) -> Entry {
        if !is_installed() {
            return Entry::Inert;
        }
        let entered = frames::with(|stack| {
            let block = raw::own_block()?;
            Some(stack.enter(self.record.pin(), writer, block))
        });
        if entered.flatten() == Some(true) {
            return Entry::Counting;
        }
        self.record.missed();
        Entry::Inert
    }

    /// Leaves the account and credits the difference since it was entered.
    #[inline]
    pub(crate) fn leave(&self, entry: Entry) {
        if entry == Entry::Inert {
            return;
        }
        // No block is claimed here: a thread that has released its block has lost its counts.
        let block = raw::block();
        let left = frames::with(|stack| stack.leave(self.record.pin(), block));
        if left != Some(true) {
            self.record.missed();
        }
    }

    /// Returns the bytes that the account holds, as of the last visit of each thread; `None` if that is not
    /// known.
    #[inline]
    pub(crate) fn held(&self) -> Option<u64> {
        if !is_installed() || self.record.is_inexact() {
            return None;
        }
        self.record.held()
    }

    /// Whether the account has held as much as `bytes` at some time. Two loads.
    #[inline]
    pub(crate) fn has_held(&self, bytes: u64) -> bool {
        self.record.has_held(bytes)
    }

    /// Sets the bytes of earlier allocations that are lent to this account, and held by it.
    pub(crate) fn lend(&self, bytes: usize) {
        self.record.lend(bytes);
        if self.record.is_limited() {
            look();
        }
    }

    /// Sets what the account may hold, or removes the budget. What it holds already counts.
    ///
    /// Holding more sets nothing but a flag, [`is_over_budget`](Self::is_over_budget): it may happen inside the
    /// allocator. One thread in the account sets it at the latest 1 KiB of small blocks beyond the budget, in
    /// mid-poll. Each further thread may have allocated another 64 KiB that no other one has seen.
    pub(crate) fn set_budget(&self, budget: Option<Budget>) {
        look();
        self.record.set_budget(budget);
        look();
    }

    /// As [`set_budget`](Self::set_budget), before the account is entered for the first time.
    #[inline]
    pub(crate) fn begin_budget(&self, budget: Budget) {
        self.record.begin_budget(budget);
    }

    /// The budget in force.
    #[inline]
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.record.budget()
    }

    /// Whether the account has held more than its budget since that was set. One load.
    #[inline]
    pub(crate) fn is_over_budget(&self) -> bool {
        self.record.has_crossed()
    }

    /// Lets the account hold what it holds now and `more` bytes, if that is above its budget.
    #[cold]
    pub(crate) fn tolerate(&self, more: u64) {
        look();
        self.record.tolerate(more);
        look();
    }

    /// Makes [`is_over_budget`](Self::is_over_budget) true, if there is a budget.
    #[cold]
    pub(crate) fn exhaust_budget(&self) {
        self.record.exhaust();
    }

    /// The most bytes that the account held, as far as they count for its budget.
    pub(crate) fn most_held(&self) -> u64 {
        look();
        self.record.most_held()
    }

    /// Returns the bytes that may still be held; `None` without a budget.
    pub(crate) fn budget_left(&self) -> Option<u64> {
        look();
        self.record.budget_left()
    }

    /// The inner service was called: the sections that follow are polls.
    #[inline]
    pub(crate) fn called(&self) {
        self.record.called();
    }

    /// What is handed on from here on is a body's.
    #[inline]
    pub(crate) fn body_began(&self) {
        self.record.body_began();
    }

    /// A body's frame of `bytes` was handed on. For the owner with [`Writer::Exclusive`], outside of
    /// its sections.
    #[inline]
    pub(crate) fn gave(&self, bytes: usize, is_unique: bool) {
        self.record.gave(bytes, is_unique);
    }

    pub(super) const fn record(&self) -> &RecordRef {
        &self.record
    }

    /// Names the account's part of a profile.
    #[inline]
    pub(crate) fn set_labels(&self, route: Option<RouteName>, task: Option<TaskName>) {
        self.record.labels.set(route, task);
    }

    /// The account's part of a profile, and of the flight recorder's events.
    #[cfg(feature = "trace")]
    #[inline]
    pub(crate) fn labels(&self) -> LabelWord {
        self.record.labels.get()
    }

    /// Begins anew, with all counts at zero.
    pub(crate) fn reset(&mut self) {
        self.record.reset();
    }
}

/// Returns what an account that is entered on this thread holds, and its budget, if it may not hold
/// `more` bytes more.
#[cold]
pub(crate) fn exceeded_by(more: usize) -> Option<(u64, u64)> {
    frames::with(|stack| {
        let block = raw::own()?;
        stack.visit(block, block.live_bytes());
        let mut over = stack.entered(block).iter().filter_map(|frame| {
            let record = frame.record.get()?;
            record.with(|record| record.exceeded_by(more as u64))
        });
        over.next().map(|(held, budget)| (held, budget.limit))
    })
    .flatten()
}

/// Visits the accounts that are entered on this thread.
fn look() {
    frames::with(|stack| {
        if let Some(block) = raw::own() {
            stack.visit(block, block.live_bytes());
        }
    });
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("usage", &self.usage())
            .finish()
    }
}

/// The guard returned by [`Account::enter`], which leaves the account when dropped.
///
/// Guards may be dropped in any order.
///
/// # Examples
///
/// ```
/// use tower_memory::{Account, TrackingAllocator};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let (first, second) = (Account::new(), Account::new());
/// let in_first = first.enter();
/// let in_second = second.enter();
/// drop(in_first);
/// let text = String::with_capacity(8);
/// drop(in_second);
/// assert_eq!(first.usage().expect("installed").bytes_allocated, 0);
/// assert_eq!(second.usage().expect("installed").bytes_allocated, 8);
/// # drop(text);
/// ```
#[derive(Debug)]
#[must_use = "the account is left when the guard is dropped"]
pub struct Entered<'a> {
    // Dropped first.
    _section: Section<'a>,
    _kept: Option<Kept>,
}

/// An account that is entered until the drop.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    entry: Entry,
    account: &'a Account,
    /// The counters belong to this thread, so the guard must not move to another one.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        self.account.leave(self.entry);
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_exceeded_by_what_is_held_or_lent() {
        let mut account = Account::new();
        let budget = |limit| {
            Some(Budget {
                limit,
                of_call: false,
            })
        };
        account.set_budget(budget(1000));
        account.lend(1000);
        assert!(!account.is_over_budget());
        account.lend(1001);
        assert!(account.is_over_budget());
        // Held already, or not more.
        account.set_budget(budget(1000));
        assert!(account.is_over_budget());
        account.set_budget(budget(1001));
        assert!(!account.is_over_budget());
        account.lend(5000);
        assert!(account.is_over_budget());
        account.set_budget(None);
        assert!(!account.is_over_budget());
        account.set_budget(budget(1000));
        account.reset();
        account.lend(5000);
        assert!(!account.is_over_budget());
    }
}
