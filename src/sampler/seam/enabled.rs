use super::state::{self, Names};
use crate::names::LabelWord;

pub(crate) use super::draw::{Draw, Rate};
pub(crate) use super::state::{LiveSamples, freed, may_be_live};

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
    for label in labels {
        if names.task == 0 {
            names.task = label.task();
        }
        names.route = label.route();
        // A task further out is that of the request that has sent this one.
        if names.route != 0 {
            break;
        }
    }
    state::sampled(address, bytes, is_new, rate, names);
}
