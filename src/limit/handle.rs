use std::fmt;

use super::{
    layer::LayerLimit,
    mode::LimitMode,
    pressure::Pressure,
    process::{LEAST_LIMIT, Process},
    snapshot::LimitSnapshot,
};
use crate::{config::ConfigError, sync::Arc};

/// A limit for the memory of the process, shared by the layers that are given it.
///
/// A layer with a limit admits a request if what requests of its route are known to hold still fits:
/// `base + max(held, k * (reserved + mean)) <= 0.90 * limit`. `held` is what open requests hold, `base` all
/// other memory of the process, `mean` what requests of the route hold at their height, `reserved` the sum of
/// that over all open requests, and `k` the share of it that is held at once. When memory gets tight, the
/// [stages](super::Stage) give memory back, refuse, and cancel.
///
/// It needs a [`TrackingAllocator`](crate::TrackingAllocator) for that. Without one it goes by the resident
/// memory, refuses at thresholds, and predicts nothing.
///
/// A memory limit is no limit of the processors' load: combine it with tower's `GlobalConcurrencyLimitLayer`, as the
/// [guide](crate::guide::limits) shows.
///
/// Clones are the same limit.
///
/// # Examples
///
/// ```
/// use tower_memory::{MemoryLayer, limit::ProcessLimit};
///
/// // What the container, the process or the machine allows, times 0.9.
/// let limit = ProcessLimit::detect()?;
/// let layer = MemoryLayer::builder().process_limit(&limit).build()?;
/// assert!(limit.pressure().limit > 0);
/// # drop(layer);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ProcessLimit {
    process: Arc<Process>,
}

impl ProcessLimit {
    pub(super) const fn new(process: Arc<Process>) -> Self {
        Self { process }
    }

    /// Returns the mode.
    #[must_use]
    pub fn mode(&self) -> LimitMode {
        self.process.mode()
    }

    /// Sets the mode, from now on.
    pub fn set_mode(&self, mode: LimitMode) {
        self.process.set_mode(mode);
    }

    /// Sets the limit in bytes, from now on. It may be below what is in use: then requests are refused and
    /// cancelled until it is not.
    ///
    /// # Errors
    ///
    /// If it is below 1 MiB.
    pub fn set_bytes(&self, bytes: u64) -> Result<(), ConfigError> {
        if bytes < LEAST_LIMIT {
            return Err(ConfigError::LimitTooSmall {
                asked: bytes,
                least: LEAST_LIMIT,
            });
        }
        self.process.set_limit(bytes);
        Ok(())
    }

    /// Returns how tight memory is.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.process.pressure()
    }

    /// Returns whether a load balancer should send requests here.
    ///
    /// It is `false` after 30 s of refusals without one admitted request, and `true` again when there was room
    /// for 10 s. It does not follow each refusal: replicas share a load, so all of them would leave the
    /// balancer at once, and come back at once. `true` in all modes but
    /// [`Enforce`](super::LimitMode::Enforce).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.process.is_ready()
    }

    /// Returns the figures.
    #[must_use]
    pub fn snapshot(&self) -> LimitSnapshot {
        self.process.snapshot()
    }

    /// For a layer with so many routes.
    pub(crate) fn for_layer(&self, routes: usize) -> LayerLimit {
        LayerLimit::new(Arc::clone(&self.process), routes)
    }

    /// Of a layer that has one.
    pub(crate) fn of(layer: &LayerLimit) -> Self {
        Self::new(Arc::clone(layer.process()))
    }
}

impl fmt::Debug for ProcessLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProcessLimit").field(&self.process).finish()
    }
}
