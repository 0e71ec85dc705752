//! Why a request is cancelled: the reason, and the source of the deadline if that was it.
//!
//! The [`Outcome`] is at the root of the crate.

mod cancelled;
mod grace;
pub(crate) mod outcome;
mod reason;
mod state;

pub use self::cancelled::Cancelled;
pub use self::reason::CancelReason;
pub use crate::deadline::DeadlineSource;

pub(crate) use self::cancelled::Exceeded;
pub(crate) use self::grace::{Aborted, Grace};
pub(crate) use self::outcome::Outcome;
pub(crate) use self::state::CancelState;
