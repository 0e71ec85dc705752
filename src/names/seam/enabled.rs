use std::{
    panic::Location,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::tables;

/// The number of a route's label.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteName(u16);

impl RouteName {
    /// Takes a lock. Labels are kept for ever.
    pub(crate) fn new(label: &str) -> Self {
        Self(tables::route(label))
    }
}

/// The number of a task's name, or of the place where it was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskName(u16);

impl TaskName {
    pub(crate) fn named(name: &'static str) -> Self {
        Self(tables::task_named(name))
    }

    pub(crate) fn at(location: &'static Location<'static>) -> Self {
        Self(tables::task_at(location))
    }
}

/// The labels of an account, one word.
#[derive(Debug)]
pub(crate) struct Labels(AtomicU32);

/// What [`Labels`] hold at a moment: the number of the route in the upper half, that of the task in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

impl LabelWord {
    #[cfg(feature = "trace")]
    pub(crate) const BITS: u32 = u32::BITS;

    #[cfg(feature = "trace")]
    #[inline]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    #[cfg(feature = "trace")]
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// That of a task without a route.
    #[cfg(feature = "trace")]
    pub(crate) const fn of_task(TaskName(number): TaskName) -> Self {
        Self(number as u32)
    }

    /// The number of the route, zero for none.
    pub(crate) const fn route(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The number of the task, zero for none.
    pub(crate) const fn task(self) -> u16 {
        self.0 as u16
    }
}
