use super::{
    frames::{self, Aside},
    raw,
};

/// Calls `f` outside of the accounts that are entered on this thread: they see neither what it allocates nor
/// what it frees.
///
/// For what belongs to no request, such as a cache that the request happens to fill, or the log of a test.
/// What is allocated inside and freed outside counts as freed only. Budgets do not see it either.
///
/// # Examples
///
/// ```
/// use tower_memory::{Account, TrackingAllocator, account};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let account = Account::new();
/// let cached = account.in_scope(|| {
///     let answer = vec![0_u8; 100];
///     account::untracked(|| answer.clone())
/// });
/// let usage = account.usage().expect("installed");
/// assert_eq!((usage.allocations, usage.bytes_allocated), (1, 100));
/// # drop(cached);
/// ```
pub fn untracked<R>(f: impl FnOnce() -> R) -> R {
    aside(f)
}

/// As [`untracked`], for what is seldom called.
///
/// For tables of the crate that grow during a request and stay for others: they are no figure of the
/// request that happens to be there. The caller does this only when a table grows, which is seldom.
#[cold]
#[inline(never)]
pub(crate) fn aside<R>(f: impl FnOnce() -> R) -> R {
    // A thread without a block has entered no account.
    let set = raw::own()
        .and_then(|block| frames::with(|stack| stack.set_aside(block)))
        .flatten();
    let _put_back = PutBack(set);
    f()
}

struct PutBack(Option<Aside>);

impl Drop for PutBack {
    fn drop(&mut self) {
        if let (Some(aside), Some(block)) = (&self.0, raw::own()) {
            frames::with(|stack| stack.put_back(aside, block));
        }
    }
}
