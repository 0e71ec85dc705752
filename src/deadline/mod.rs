//! Everything about a request's time: its deadline and its source, the limits of bodies, the rules
//! that set them, and the one timer that watches them.

mod first;
mod limit;
mod limits;
mod rules;
mod source;
mod timer;
mod watched;
mod word;

pub use self::source::DeadlineSource;

pub(crate) use self::first::FirstLimits;
pub(crate) use self::limits::{BodyKind, CallLimits, Limits, RequestTimes};
pub(crate) use self::rules::{Rule, TimeRules};
pub(crate) use self::timer::DeadlineTimer;
pub(crate) use self::watched::{Limited, Watched};
