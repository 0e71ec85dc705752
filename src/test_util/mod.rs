//! For tests that hold a service to what it allocates (feature `test-util`).
//!
//! - [`measure`] sends a request and returns its response with the [report](crate::ScopeReport): allocations,
//!   arena, outcome.
//! - [`Thresholds`] compares reports with a file of the project, which `TOWER_MEMORY_BLESS=1` rewrites.
//! - [`assert_allocations!`](crate::assert_allocations) is for a piece of code without a request.
//! - [`account::untracked`](crate::account::untracked) leaves a section out.
//!
//! # What is deterministic
//!
//! On a current-thread runtime, a handler that does the same allocates the same, from the **second** request of a
//! route and method on. The crate's own part is: scopes, tasks and arenas are recycled, its tables grow outside of
//! all accounts, and learned sizes of arenas change only when what requests use changes.
//!
//! The first request differs, since it fills thread-locals, lazy statics and the pool. So send one before the
//! one that is measured. These differ from run to run:
//!
//! - tasks on several threads, whose polls interleave: which of them finds a buffer full, for instance;
//! - what depends on time: timeouts, retries, batches (pause tokio's clock);
//! - what depends on a `RandomState`: the order of a `HashMap`, though not how often it grows;
//! - `peak_bytes` and `held_bytes`, if other threads free what the request has allocated.
//!
//! Outside of the account is what the server, `tokio::spawn` and other threads allocate for the request.

mod assert;
mod measure;
mod thresholds;

pub use self::measure::{Measured, measure};
pub use self::thresholds::Thresholds;
