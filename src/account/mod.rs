//! Allocation accounting: a counting global allocator, and accounts that collect its counts.
//!
//! [`TrackingAllocator`] keeps monotonic counters for each thread. An [`Account`] is *entered* while
//! code runs on its behalf, and is credited with the difference of the thread's counters between
//! entering and leaving. The allocator does not know of accounts: a `malloc` costs a few plain
//! additions more, and attribution costs something only at the start and the end of a poll.

mod allocator;
mod aside;
mod counters;
mod frames;
mod inside;
mod ledger;
mod leftover;
mod passed;
mod raw;
mod totals;
mod track;
#[cfg(feature = "profile")]
mod unsampled;
mod usage;
mod visits;

pub use self::allocator::TrackingAllocator;
pub use self::aside::untracked;
pub use self::ledger::{Account, Entered};
#[cfg(feature = "trace")]
pub(crate) use self::totals::thread_bytes;
pub use self::totals::{is_installed, process_usage, thread_usage};
pub use self::track::Tracked;
pub(crate) use self::usage::Totals;
pub use self::usage::{HeapUsage, Usage};

pub(crate) use self::aside::aside;
pub(crate) use self::counters::{LARGE, Writer};
pub(crate) use self::inside::{Enter, Inside};
pub(crate) use self::ledger::{Entry, exceeded_by};
pub(crate) use self::leftover::Leftovers;
pub(crate) use self::passed::{dropped_frozen, froze, returned, taken};
pub(crate) use self::raw::Budget;
#[cfg(feature = "profile")]
pub(crate) use self::unsampled::unsampled;
