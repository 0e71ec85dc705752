//! Ending a request: its deadline, its token, and the reason both give.

mod deadline;
mod grace;
mod limit;
mod outcome;
mod reason;
mod signal;
mod source;

pub use self::outcome::Outcome;
pub use self::reason::CancelReason;
pub use self::source::DeadlineSource;

pub(crate) use self::deadline::Deadline;
pub(crate) use self::grace::{Aborted, Grace};
pub(crate) use self::limit::Limit;
pub(crate) use self::signal::Signal;
