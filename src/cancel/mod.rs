//! Ending a request: its deadline, its token, and the reason both give.

mod deadline;
mod grace;
mod reason;
mod signal;

pub use self::deadline::DeadlineSource;
pub use self::reason::CancelReason;

pub(crate) use self::deadline::Deadline;
pub(crate) use self::grace::{Aborted, Grace};
pub(crate) use self::signal::Signal;
