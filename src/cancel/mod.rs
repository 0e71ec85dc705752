//! Cancelling a request: the outcome, the reason, and the token that its code waits for.

mod grace;
mod outcome;
mod reason;
mod state;

pub use self::outcome::Outcome;
pub use self::reason::CancelReason;
pub use crate::deadline::DeadlineSource;

pub(crate) use self::grace::{Aborted, Grace};
pub(crate) use self::state::CancelState;
