//! Who allocated what: a counting global allocator and accounts that collect its figures.
//!
//! [`TrackingAllocator`] keeps monotonic counters per thread. An [`Account`] is *entered* while
//! code runs on its behalf and is credited with what the thread's counters moved in between, so
//! the allocator itself never has to know who it is allocating for: the cost of a `malloc` stays a
//! few plain additions, and attribution costs something only where a poll begins and ends.

mod allocator;
mod counters;
mod frames;
mod inside;
mod ledger;
mod track;
mod usage;

pub use self::allocator::{TrackingAllocator, is_installed, process_usage, thread_usage};
pub use self::ledger::{Account, Entered};
pub use self::track::Tracked;
pub use self::usage::{HeapUsage, Usage};

pub(crate) use self::inside::{Enter, Inside};
pub(crate) use self::ledger::{Entry, Writer};
