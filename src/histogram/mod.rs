//! Log-linear histograms: how values are distributed, with a bound on the relative error.

mod buckets;
mod counts;
mod set;

pub(crate) use self::buckets::{PARTS, bucket, upper};
pub(crate) use self::counts::Counts;
pub(crate) use self::set::{Histograms, LARGEST};
