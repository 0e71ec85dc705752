//! Profiles, and what switches sampling on and off.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    row::{Amount, Row},
    symbols::{Frame, Resolver},
};
use crate::{
    account::{is_installed, unsampled},
    names,
    sampler::{self, Totals},
};

/// Whether a profile has stacks.
///
/// # Examples
///
/// ```
/// use tower_memory::profile::{Profile, Stacks};
///
/// // Before it was started, nothing is known.
/// assert_eq!(Profile::snapshot().stacks(), Stacks::Missing);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stacks {
    /// By the frame pointers that the build keeps.
    FramePointers,
    /// The build keeps no frame pointers, or the profile was never started: samples have routes and tasks
    /// only.
    Missing,
}

impl Stacks {
    fn now() -> Self {
        if sampler::frame_pointers() {
            Self::FramePointers
        } else {
            Self::Missing
        }
    }
}

/// What was allocated and what is in use, by route, task and stack, as sampled until one moment.
///
/// Sampling is one for the process: [`start`](Self::start) switches it on, and profiles are
/// [snapshots](Self::snapshot) of its sums.
///
/// Figures are estimates without bias. One of `n` bytes in blocks smaller than the rate has a standard
/// deviation of about `sqrt(rate / n)`: 7 % for 100 MiB at 512 KiB, 45 % for 2.5 MiB.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_memory::profile::{Profile, Value};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> std::io::Result<()> {
/// // What is allocated within ten seconds, as for `/pprof/allocs?seconds=10`.
/// let before = Profile::snapshot();
/// tokio::time::sleep(Duration::from_secs(10)).await;
/// let profile = Profile::snapshot().since(&before);
/// let mut file = Vec::new();
/// profile.resolve().write_pprof(Value::AllocatedBytes, &mut file)?;
/// assert_eq!(&file[..2], b"\x1f\x8b"); // gzip
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Profile {
    pub(super) rows: Vec<Row>,
    pub(super) rate: Option<u64>,
    pub(super) stacks: Stacks,
    /// Samples and bytes.
    pub(super) dropped: (u64, u64),
    pub(super) taken: SystemTime,
    /// Of a difference.
    pub(super) period: Option<Duration>,
    pub(super) is_resolved: bool,
}

impl Profile {
    /// The usual rate: a sample each 512 KiB on average.
    pub const DEFAULT_RATE: u64 = 512 << 10;

    /// Starts sampling, one sample each `rate` bytes on average (at least 1), and looks for frame pointers.
    /// Returns whether there will be stacks; or `None` without an installed
    /// [`TrackingAllocator`](crate::TrackingAllocator), when there are no samples at all.
    ///
    /// The calling thread takes samples from here on, others after at most 64 KiB of further allocations.
    /// If sampling is on already, the rate changes; what was sampled stays and keeps its weight.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::{TrackingAllocator, profile::Profile};
    ///
    /// #[global_allocator]
    /// static ALLOC: TrackingAllocator = TrackingAllocator::system();
    ///
    /// let stacks = Profile::start(Profile::DEFAULT_RATE).expect("installed");
    /// println!("profile with stacks: {stacks:?}");
    /// assert_eq!(Profile::rate(), Some(512 * 1024));
    /// Profile::stop();
    /// assert_eq!(Profile::rate(), None);
    /// ```
    #[expect(clippy::must_use_candidate, reason = "for its effect")]
    pub fn start(rate: u64) -> Option<Stacks> {
        if !is_installed() {
            return None;
        }
        sampler::look_for_frame_pointers();
        sampler::set_rate(Some(rate));
        // By as much this thread has looked at the rate.
        drop(black_box(Vec::<u8>::with_capacity(sampler::POLL as usize)));
        Some(Stacks::now())
    }

    /// Stops sampling. Frees of what was sampled are still noticed.
    pub fn stop() {
        sampler::set_rate(None);
    }

    /// Returns the mean distance of two samples in bytes, while sampling is on.
    #[must_use]
    pub fn rate() -> Option<u64> {
        sampler::rate()
    }

    /// Returns the sums until now: a copy of the rows.
    #[must_use]
    pub fn snapshot() -> Self {
        unsampled(Self::now)
    }

    fn now() -> Self {
        let dropped = sampler::dropped();
        let mut tasks: HashMap<u16, Option<Arc<str>>> = HashMap::new();
        let row = |totals: Totals| Row {
            index: totals.index,
            route: names::route_name(totals.names.route),
            task: tasks
                .entry(totals.names.task)
                .or_insert_with_key(|number| names::task_name(*number).map(Into::into))
                .clone(),
            frames: totals.stack.into_iter().map(Frame::new).collect(),
            allocated: Amount::new(totals.allocated),
            in_use: Amount::new(totals.in_use),
        };
        let mut profile = Self {
            rows: sampler::totals().into_iter().map(row).collect(),
            rate: sampler::rate(),
            stacks: Stacks::now(),
            dropped,
            taken: SystemTime::now(),
            period: None,
            is_resolved: false,
        };
        profile.sort();
        profile
    }

    /// Returns the difference to an earlier snapshot: what was allocated in between, and by how much the
    /// memory in use has grown, which may be negative.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let former: HashMap<usize, &Row> =
            earlier.rows.iter().map(|row| (row.index, row)).collect();
        let mut difference = self.clone();
        for row in &mut difference.rows {
            if let Some(former) = former.get(&row.index) {
                row.allocated = row.allocated.minus(former.allocated);
                row.in_use = row.in_use.minus(former.in_use);
            }
        }
        let is_none = |amount: Amount| amount == Amount::default();
        let rows = &mut difference.rows;
        rows.retain(|row| !(is_none(row.allocated) && is_none(row.in_use)));
        difference.dropped = (
            self.dropped.0.saturating_sub(earlier.dropped.0),
            self.dropped.1.saturating_sub(earlier.dropped.1),
        );
        difference.period = self.taken.duration_since(earlier.taken).ok();
        difference.sort();
        difference
    }

    /// Most in use first, then most allocated.
    fn sort(&mut self) {
        self.rows.sort_by_key(|row| {
            let (in_use, allocated) = (row.in_use.bytes, row.allocated.bytes);
            std::cmp::Reverse((in_use, allocated))
        });
    }

    /// Returns the profile with the names of functions, files and lines, as far as the program's debug
    /// information has them.
    ///
    /// Reads debug information, which takes long at first: not for an async thread.
    #[must_use]
    pub fn resolve(mut self) -> Self {
        unsampled(|| {
            let mut resolver = Resolver::default();
            for row in &mut self.rows {
                resolver.resolve(&mut row.frames);
            }
        });
        self.is_resolved = true;
        self
    }

    /// Returns the rows, most bytes in use first.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns whether the rows have stacks.
    #[must_use]
    pub const fn stacks(&self) -> Stacks {
        self.stacks
    }

    /// Returns how many live samples found no room, since at most 65 536 are kept, and the bytes that
    /// they stand for. The figures in use are too low by these bytes at most; those of what was allocated
    /// are not.
    #[must_use]
    pub const fn dropped(&self) -> (u64, u64) {
        self.dropped
    }
}
