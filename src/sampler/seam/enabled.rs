use std::{
    panic::Location,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    labels,
    state::{self, Names},
};

pub(crate) use super::draw::{Draw, Rate};
pub(crate) use super::state::{LiveSamples, freed, may_be_live};

/// The number of a route's label.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteName(u16);

impl RouteName {
    /// Takes a lock. Labels are kept for ever.
    pub(crate) fn new(label: &str) -> Self {
        Self(labels::route(label))
    }
}

/// The number of a task's name, or of the place where it was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskName(u16);

impl TaskName {
    pub(crate) fn named(name: &'static str) -> Self {
        Self(labels::task_named(name))
    }

    pub(crate) fn at(location: &'static Location<'static>) -> Self {
        Self(labels::task_at(location))
    }
}

/// The labels of an account, one word.
#[derive(Debug)]
pub(crate) struct Labels(AtomicU32);

/// What [`Labels`] hold at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelWord(u32);

// Relaxed: a number into tables that are ordered by themselves.
impl Labels {
    pub(crate) const fn none() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(crate) fn set(&self, route: Option<RouteName>, task: Option<TaskName>) {
        let route = route.map_or(0, |RouteName(number)| number);
        let task = task.map_or(0, |TaskName(number)| number);
        self.0
            .store(u32::from(route) << 16 | u32::from(task), Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> LabelWord {
        LabelWord(self.0.load(Relaxed))
    }
}

/// Records a sample. `labels` are those of the accounts that are entered, innermost first.
#[cold]
pub(crate) fn sampled(
    address: usize,
    bytes: usize,
    is_new: bool,
    rate: Rate,
    labels: impl Iterator<Item = LabelWord>,
) {
    let mut names = Names::default();
    for LabelWord(packed) in labels {
        if names.task == 0 {
            names.task = packed as u16;
        }
        names.route = (packed >> 16) as u16;
        // A task further out is that of the request that has sent this one.
        if names.route != 0 {
            break;
        }
    }
    state::sampled(address, bytes, is_new, rate, names);
}
