//! A profile of allocations by route, task and stack (feature `profile`).
//!
//! [`Profile::start`] has [`TrackingAllocator`](crate::TrackingAllocator) take samples: one each 512 KiB
//! on average ([`Profile::DEFAULT_RATE`]). A sample knows the route and the task in whose account the
//! allocation was made, its stack, and whether it is still live. So a profile says how much each route
//! and stack has allocated, and how much of that is in use: *in use by a route, long after its requests
//! have ended, is a leak, or a cache*.
//!
//! ```
//! use tower_memory::{Account, TrackingAllocator, profile::{Profile, Value}};
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! // Each block is a sample here. A service uses `Profile::DEFAULT_RATE`.
//! Profile::start(1).expect("the allocator is installed");
//!
//! let account = Account::labelled("/report");
//! let kept = account.in_scope(|| vec![0_u8; 100_000]);
//!
//! let profile = Profile::snapshot();
//! let bytes: i64 = profile
//!     .rows()
//!     .iter()
//!     .filter(|row| row.route() == Some("/report"))
//!     .map(|row| row.in_use.bytes)
//!     .sum();
//! assert_eq!(bytes, 100_000);
//!
//! // For `go tool pprof`, and for a flame graph.
//! let (mut pprof, mut folded) = (Vec::new(), Vec::new());
//! profile.write_pprof(Value::InUseBytes, &mut pprof)?;
//! profile.write_folded(Value::InUseBytes, &mut folded)?;
//! # drop(kept);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Stacks
//!
//! They are read by frame pointers, which a build keeps with
//! `RUSTFLAGS="-C force-frame-pointers=yes"`, on Linux and macOS on `x86_64` and `aarch64`. [`Profile::start`]
//! looks for them, and [`Profile::stacks`] and a comment in the file say what it has found. Without them a
//! profile has routes and tasks, and no stacks: no unwinder may run inside an allocator.
//!
//! # What it costs
//!
//! Off, a free costs one load more. On, a sample costs the walk of its stack. See the guide.

mod folded;
mod pprof;
mod proto;
mod row;
mod snapshot;
mod symbols;

pub use self::row::{Amount, Row, Value};
pub use self::snapshot::{Profile, Stacks};
