//! Samples of allocations, for the profile: which allocations are samples, the route, task and stack of
//! each, and which of them are still live.
//!
//! The account's slow path asks a thread's [`Draw`] whether an allocation is a sample. It records the
//! sample under its labels and its stack, and keeps its address until the block is freed. All tables are
//! static and bounded, so nothing here allocates, locks or panics inside the allocator.
//!
//! Without the feature `profile` the seam has the same names, which cost nothing.

#[cfg(feature = "profile")]
mod draw;
#[cfg(feature = "profile")]
mod live;
#[cfg(feature = "profile")]
mod raw;
#[cfg_attr(feature = "profile", path = "seam/enabled.rs")]
#[cfg_attr(not(feature = "profile"), path = "seam/disabled.rs")]
mod seam;
#[cfg(feature = "profile")]
mod stacks;
#[cfg(feature = "profile")]
mod state;

pub(crate) use self::seam::{Draw, LiveSamples, freed, may_be_live, sampled};

#[cfg(feature = "profile")]
pub(crate) use self::{
    draw::{POLL, rate, set_rate},
    state::{Totals, dropped, frame_pointers, look_for_frame_pointers, totals},
};
