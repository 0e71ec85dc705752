//! Names of routes and tasks as small numbers.
//!
//! An account keeps the numbers of its route and of its task in one word. The profile's samples and the flight
//! recorder's events take them from there, and look the texts up when they are read.
//!
//! Without the features `profile` and `trace` the seam has the same names, which cost nothing.

#[cfg_attr(any(feature = "profile", feature = "trace"), path = "seam/enabled.rs")]
#[cfg_attr(
    not(any(feature = "profile", feature = "trace")),
    path = "seam/disabled.rs"
)]
mod seam;
#[cfg(any(feature = "profile", feature = "trace"))]
mod tables;

pub(crate) use self::seam::{LabelWord, Labels, RouteName, TaskName};

#[cfg(any(feature = "profile", feature = "trace"))]
pub(crate) use self::tables::{route_name, task_name};

#[cfg(feature = "profile")]
pub(crate) use self::tables::ROUTES;
