use crate::scope::ScopeReport;

/// Told of each request when its scope has closed.
///
/// Implemented for closures that take a `&ScopeReport`. Give it to
/// [`MemoryLayer::observe`](crate::MemoryLayer::observe).
///
/// # Panics
///
/// An observer runs where the request ends, which is often a `Drop`. A panic in it is caught and
/// counted ([`Snapshot::observer_panics`](super::Snapshot::observer_panics)), and touches neither
/// the request nor other observers. With `panic = "abort"` it ends the process, as ever.
///
/// # Examples
///
/// ```
/// use tower_memory::{MemoryLayer, scope::ScopeReport};
///
/// let layer = MemoryLayer::new().observe(|report: &ScopeReport| {
///     if let Some(usage) = report.usage {
///         println!("{} took {} bytes", report.route, usage.bytes_allocated);
///     }
/// });
/// # let _ = layer;
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A request is over. Must not block.
    fn on_close(&self, report: &ScopeReport);
}

impl<F> Observer for F
where
    F: Fn(&ScopeReport) + Send + Sync + 'static,
{
    fn on_close(&self, report: &ScopeReport) {
        self(report);
    }
}
