use std::time::Duration;

use crate::histogram::{Counts, Histograms};

/// Count, sum, maximum and distribution of a value over several requests.
///
/// Count, sum and maximum are exact. The distribution is a log-linear histogram: a
/// [percentile](Self::percentile) differs from the exact one by at most 3 %.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, RequestScope};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = MemoryLayer::new();
/// let mut service = layer.layer(service_fn(|request: Request<u8>| async move {
///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
///     for _ in 0..*request.body() {
///         scope.arena().alloc([0_u8; 16]);
///     }
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// for n in 1..=100 {
///     drop(service.ready().await?.call(Request::new(n)).await?);
/// }
///
/// let snapshot = layer.handle().snapshot();
/// let arena = snapshot.routes[0].arena_bytes.as_ref().expect("requests have closed");
/// assert_eq!((arena.count, arena.max, arena.mean()), (100, 1600, 808.0));
/// assert!((776..=824).contains(&arena.percentile(0.5)), "800, and at most 3 % beside it");
/// assert_eq!(arena.percentile(1.0), 1600);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Requests for which the value is known; never zero.
    pub count: u64,
    /// The sum.
    pub total: u64,
    /// The maximum. In a [difference](crate::observe::Snapshot::since) at most 6 % too high, and exact if
    /// there was none as high before.
    pub max: u64,
    counts: Counts,
}

impl Summary {
    /// Returns the arithmetic mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.total as f64 / self.count as f64
    }

    /// Returns the value that the part `q` of all requests did not exceed: `0.5` is the median, `1.0` the
    /// maximum. Numbers outside of 0 to 1 count as the nearest of these, and NaN as 0.
    #[must_use]
    pub fn percentile(&self, q: f64) -> u64 {
        // The nearest rank, starting at one. The cast saturates, and turns NaN into zero.
        let rank = (q * self.count as f64).ceil() as u64;
        self.counts.at(rank.max(1), self.count, self.max)
    }

    /// Iterates over the buckets of the histogram that are not empty, in ascending order: the highest
    /// value, and the number of requests. Requests with a value of zero are in none.
    ///
    /// Each power of two is the highest value of a bucket, so the number of requests with at most 64 KiB,
    /// for example, is the sum of whole buckets.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter()
    }

    /// Returns `None` if nothing was added to the histogram: unknown is not zero.
    pub(super) fn of<const N: usize, const CHUNKS: usize>(
        all: &Histograms<N, CHUNKS>,
        which: usize,
    ) -> Option<Self> {
        let [count, total, max] = all.totals(which);
        (count > 0).then(|| Self {
            count,
            total,
            max,
            counts: all.counts(which),
        })
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
        self.counts.merge(&other.counts);
    }

    /// The requests since an earlier summary of the same requests; `None` if there are none.
    pub(super) fn since(mut self, earlier: Option<&Self>) -> Option<Self> {
        if let Some(earlier) = earlier {
            self.count = self.count.saturating_sub(earlier.count);
            self.total = self.total.saturating_sub(earlier.total);
            self.counts.since(&earlier.counts);
            if self.max <= earlier.max {
                self.max = self.counts.highest(self.max);
            }
        }
        (self.count > 0).then_some(self)
    }
}

/// Count, sum, maximum and distribution of a time over several requests.
///
/// As [`Summary`], with durations.
///
/// # Examples
///
/// See [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeSummary {
    /// Requests for which the time is known; never zero.
    pub count: u64,
    /// The sum.
    pub total: Duration,
    /// The maximum; see [`Summary::max`].
    pub max: Duration,
    counts: Counts,
}

impl TimeSummary {
    /// Returns the arithmetic mean.
    #[must_use]
    pub fn mean(&self) -> Duration {
        self.total.div_f64(self.count as f64)
    }

    /// Returns the time that the part `q` of all requests did not exceed; see [`Summary::percentile`].
    #[must_use]
    pub fn percentile(&self, q: f64) -> Duration {
        Duration::from_nanos(self.nanos().percentile(q))
    }

    /// Iterates over the buckets of the histogram; see [`Summary::buckets`]. Powers of two are those of
    /// nanoseconds.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let buckets = self.counts.iter();
        buckets.map(|(highest, count)| (Duration::from_nanos(highest), count))
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let mut sum = self.nanos();
        sum.merge(&other.nanos());
        *self = sum.into();
    }

    pub(super) fn since(self, earlier: Option<&Self>) -> Option<Self> {
        let since = self.nanos().since(earlier.map(Self::nanos).as_ref());
        since.map(Self::from)
    }

    pub(super) fn nanos(&self) -> Summary {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Summary {
            count: self.count,
            total: nanos(self.total),
            max: nanos(self.max),
            counts: self.counts.clone(),
        }
    }
}

impl From<Summary> for TimeSummary {
    fn from(nanos: Summary) -> Self {
        Self {
            count: nanos.count,
            total: Duration::from_nanos(nanos.total),
            max: Duration::from_nanos(nanos.max),
            counts: nanos.counts,
        }
    }
}
