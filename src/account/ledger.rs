use std::{fmt, marker::PhantomData};

use super::{
    allocator::{self, is_installed},
    counters::{self, Block, Writer},
    frames::{ENTERED, Frame, Stack},
    usage::{Counts, HeapUsage, Usage},
};
use crate::sync::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counts what a piece of code allocates and frees.
///
/// An account counts while it is *entered*: inside [`in_scope`](Self::in_scope), until the guard of
/// [`enter`](Self::enter) is dropped, or during the polls and the drop of a [`Tracked`](super::Tracked)
/// future.
///
/// Accounts nest inclusively: an outer account is also credited with the allocations of an inner one.
/// Entering an account that is already entered on this thread has no effect. Any number of threads
/// may enter an account at the same time.
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
    /// Written by one owner at a time ([`Writer::Exclusive`]), with plain stores.
    exclusive: Counts<AtomicU64>,
    /// Written by any thread ([`Writer::Shared`]), with atomic additions.
    shared: Counts<AtomicU64>,
    peak: AtomicU64,
    /// Some allocations of this account could not be counted.
    inexact: AtomicBool,
}

/// The result of [`Account::begin`], to be passed to [`Account::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Entry {
    /// Already entered further out, or not countable: leaving does nothing.
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
        Entered {
            entry: self.begin(),
            account: self,
            _not_send: PhantomData,
        }
    }

    /// Calls `f` inside this account.
    pub fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
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
        // Relaxed throughout: counts of the calling task are ordered by the program itself, and those
        // of other threads publish no other memory.
        if !is_installed() || self.inexact.load(Relaxed) {
            return None;
        }
        let mut heap = self.credited();
        let mut peak_bytes = self.peak.load(Relaxed);
        let current = ENTERED.try_with(|stack| {
            let block = allocator::own_block()?;
            let (start, peak) = stack.current(self.address(), block)?;
            Some((start, block.read(), peak))
        });
        if let Ok(Some((start, now, peak))) = current {
            heap = heap.plus(&(now - start));
            peak_bytes = peak_bytes.max(self.peak_with(&start, &now, peak));
        }
        Some(Usage { heap, peak_bytes })
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Enters the account. Pass the result to [`leave`](Self::leave) on the same thread.
    #[inline]
    pub(crate) fn begin(&self) -> Entry {
        if !is_installed() {
            return Entry::Inert;
        }
        let account = self.address();
        let entry = ENTERED.try_with(|stack| {
            if stack.find(account).is_some() {
                return Some(Entry::Inert);
            }
            let block = allocator::own_block()?;
            stack.push(account, block).then(|| {
                block.set_peak(block.live_bytes());
                Entry::Counting
            })
        });
        entry.ok().flatten().unwrap_or_else(|| {
            self.missed();
            Entry::Inert
        })
    }

    /// Leaves the account and credits the difference since it was entered.
    #[inline]
    pub(crate) fn leave(&self, entry: Entry, writer: Writer) {
        if entry == Entry::Inert {
            return;
        }
        let left = ENTERED.try_with(|stack| match stack.pop(self.address()) {
            Some(frame) => self.leave_frame(frame, writer),
            None => self.leave_below(stack, writer),
        });
        if left.is_err() {
            self.missed();
        }
    }

    #[inline]
    fn leave_frame(&self, frame: &Frame, writer: Writer) {
        // No block is claimed here: a thread that has released its block has lost its counts.
        let Some(block) = counters::own() else {
            return self.missed();
        };
        let peak = block.peak();
        if peak < frame.former_peak.get() {
            block.set_peak(frame.former_peak.get());
        }
        // Most polls allocate nothing.
        if block.counts() != frame.counts() {
            self.credit(frame, block, peak, writer);
        }
    }

    /// Like [`leave`](Self::leave), for guards that are not dropped in reverse order.
    #[cold]
    #[inline(never)]
    fn leave_below(&self, stack: &Stack, writer: Writer) {
        let account = self.address();
        let (Some(block), Some(at)) = (counters::own(), stack.position(account)) else {
            return self.missed();
        };
        // The accounts that are still entered keep the thread's peak.
        let peak = stack.peak_since(at, block.peak());
        stack.raise(at);
        match stack.pop(account) {
            Some(frame) if block.counts() != frame.counts() => {
                self.credit(frame, block, peak, writer);
            }
            Some(_) => {}
            None => self.missed(),
        }
    }

    /// Marks the account as inexact.
    #[cold]
    #[inline(never)]
    fn missed(&self) {
        // Relaxed: like the counts it belongs to.
        self.inexact.store(true, Relaxed);
    }

    /// Adds a section in which the thread's counters changed.
    #[inline(never)]
    fn credit(&self, frame: &Frame, block: &Block, peak: i64, writer: Writer) {
        let (start, now) = (&frame.start(), &block.read());
        let peak = self.peak_with(start, now, peak);
        // Relaxed, here and below: counts, which publish no other memory. An exclusive owner sees the
        // writes of the former one, since its use happens after (see `Writer`).
        if peak > self.peak.load(Relaxed) {
            self.peak.fetch_max(peak, Relaxed);
        }
        let moved = *now - *start;
        // Unchanged counters are not written.
        match writer {
            Writer::Exclusive => self.exclusive.write(&moved, |counter, by| {
                if by != 0 {
                    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
                }
            }),
            Writer::Shared => self.shared.write(&moved, |counter, by| {
                if by != 0 {
                    counter.fetch_add(by, Relaxed);
                }
            }),
        }
    }

    /// Returns the account's peak for a section from `start` to `now` in which the thread's live bytes
    /// reached `peak`.
    #[inline]
    fn peak_with(&self, start: &HeapUsage, now: &HeapUsage, peak: i64) -> u64 {
        if now.bytes_allocated == start.bytes_allocated {
            // Nothing was allocated, so there is no new peak.
            return 0;
        }
        let rise = peak.saturating_sub(start.live_bytes());
        // A negative net means that the account freed memory of others, which offsets no peak.
        let held = self.credited().live_bytes().max(0);
        u64::try_from(held.saturating_add(rise)).unwrap_or(0)
    }

    /// Returns what was credited so far.
    #[inline]
    fn credited(&self) -> HeapUsage {
        let read = |counts: &Counts<AtomicU64>| counts.read(|count| count.load(Relaxed));
        read(&self.exclusive).plus(&read(&self.shared))
    }
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
    entry: Entry,
    account: &'a Account,
    /// The counters belong to this thread, so the guard must not move to another one.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.account.leave(self.entry, Writer::Shared);
    }
}
