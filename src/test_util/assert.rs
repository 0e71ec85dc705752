/// Evaluates an expression, and panics unless it makes as many allocations on this thread as given: `<= n` at
/// most, or `== n`. Returns its value.
///
/// Reallocations do not count as allocations. [Untracked](crate::account::untracked) sections are left
/// out.
///
/// # Panics
///
/// Also if no [`TrackingAllocator`](crate::TrackingAllocator) is installed.
///
/// # Examples
///
/// ```
/// use tower_memory::{TrackingAllocator, account, assert_allocations};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// let text = assert_allocations!(<= 2, format!("{}-{}", 1, 2));
/// assert_eq!(text, "1-2");
///
/// let sum = assert_allocations!(== 0, {
///     let log = account::untracked(|| format!("not counted"));
///     log.len() + 1
/// });
/// assert_eq!(sum, 12);
/// ```
#[macro_export]
macro_rules! assert_allocations {
    (<= $most:expr, $code:expr $(,)?) => {
        $crate::assert_allocations!(@ <=, $most, $code)
    };
    (== $exactly:expr, $code:expr $(,)?) => {
        $crate::assert_allocations!(@ ==, $exactly, $code)
    };
    (@ $is:tt, $count:expr, $code:expr) => {{
        let account = $crate::Account::new();
        let value = account.in_scope(|| $code);
        let usage = account.usage().expect("a TrackingAllocator is installed");
        let (made, count): (u64, u64) = (usage.allocations, $count);
        assert!(
            made $is count,
            "{} made {made} allocations ({} bytes), expected {} {count}",
            stringify!($code),
            usage.bytes_allocated,
            stringify!($is),
        );
        value
    }};
}
