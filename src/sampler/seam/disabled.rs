use crate::names::LabelWord;

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
