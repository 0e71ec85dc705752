use std::panic::Location;

#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteName;

impl RouteName {
    pub(crate) fn new(_: &str) -> Self {
        Self
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskName;

impl TaskName {
    pub(crate) fn named(_: &'static str) -> Self {
        Self
    }

    pub(crate) fn at(_: &'static Location<'static>) -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Labels;

#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelWord;

impl Labels {
    pub(crate) const fn none() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn set(&self, _: Option<RouteName>, _: Option<TaskName>) {}

    #[inline]
    pub(crate) fn get(&self) -> LabelWord {
        LabelWord
    }
}

/// No rate has a value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rate {}

#[derive(Debug)]
pub(crate) struct Draw;

impl Draw {
    pub(crate) const FIRST: u64 = u64::MAX;

    pub(crate) const fn new() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn next(&self) -> u64 {
        u64::MAX
    }

    #[inline]
    pub(crate) fn due(&self, _: u64) -> Option<Rate> {
        None
    }
}

#[inline]
pub(crate) fn may_be_live(_: usize) -> bool {
    false
}

#[inline]
pub(crate) fn freed(_: usize) {}

#[derive(Debug)]
pub(crate) struct LiveSamples;

impl LiveSamples {
    pub(crate) fn take(_: usize) -> Self {
        Self
    }

    pub(crate) fn put_back(self, _: usize) {}

    pub(crate) fn resized(self, _: usize, _: usize, _: usize) {}
}

pub(crate) fn sampled(_: usize, _: usize, _: bool, rate: Rate, _: impl Iterator<Item = LabelWord>) {
    match rate {}
}
