use super::stage::Stage;

/// Which requests are refused first when memory is tight.
///
/// # Examples
///
/// ```
/// use tower_memory::limit::Priority;
///
/// assert!(Priority::Low < Priority::default());
/// assert_eq!(Priority::default(), Priority::Normal);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Refused first: prefetching, reports, crawlers.
    Low,
    /// The priority of requests that have no other one.
    #[default]
    Normal,
    /// Refused last: health checks, payments.
    Critical,
}

impl Priority {
    /// All priorities, in rising order.
    pub(crate) const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::Critical];

    /// The position in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// How tight memory is now.
///
/// # Examples
///
/// A handler that does less while memory is tight:
///
/// ```
/// use tower_memory::RequestScope;
///
/// async fn search(scope: RequestScope) -> usize {
///     let level = scope.pressure().map_or(0.0, |pressure| pressure.level);
///     let results = 100.0 * (1.0 - level);
///     results as usize
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// From 0, below [`Stage::BrownOut`], to 1, at [`Stage::Refuse`].
    pub level: f32,
    /// The stage.
    pub stage: Stage,
    /// Bytes that the process uses; `None` if no source can tell.
    pub used: Option<u64>,
    /// Bytes that it may use.
    pub limit: u64,
}
