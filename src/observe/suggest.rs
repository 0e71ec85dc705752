use std::fmt;

use super::{
    handle::MemoryHandle,
    snapshot::{RouteSnapshot, Snapshot},
};
use crate::{limit::LimitSnapshot, scope::RouteLabel};

/// Fewer requests are no base for a suggestion.
const FEW: u64 = 100;

// `Suggestions::routes` says so.
const _: () = assert!(FEW == 100);

/// Numbers to choose limits by, from what requests have held so far.
///
/// Returned by [`MemoryHandle::suggest`](crate::MemoryHandle::suggest). Its `Display` is a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suggestions {
    /// Routes and methods with at least 100 closed requests whose peak is known.
    pub routes: Vec<Suggestion>,
    /// Routes and methods with fewer.
    pub unknown: usize,
    /// The limit of the process, if the layer has one.
    pub limit: Option<LimitSnapshot>,
    /// Whether all requests so far have fit: none was refused or cancelled because of the limit, or would
    /// have been. `None` without a limit.
    pub fits: Option<bool>,
}

/// What requests of one route and method have held, and a limit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suggestion {
    /// The method.
    pub method: &'static str,
    /// The route.
    pub route: RouteLabel,
    /// Closed requests whose peak is known.
    pub requests: u64,
    /// The mean of the bytes that they held at their height.
    pub mean: u64,
    /// What 99 % of them did not exceed.
    pub p99: u64,
    /// The most.
    pub max: u64,
    /// A limit for each request: twice the 99th percentile, rounded up to a power of two.
    pub request_limit: u64,
}

impl MemoryHandle {
    /// Suggests limits from what the layer's requests have held so far.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::MemoryLayer;
    ///
    /// let suggestions = MemoryLayer::new().handle().suggest();
    /// assert!(suggestions.routes.is_empty(), "it says nothing below 100 requests");
    /// ```
    #[must_use]
    pub fn suggest(&self) -> Suggestions {
        Suggestions::of(self.snapshot())
    }
}

impl Suggestions {
    fn of(snapshot: Snapshot) -> Self {
        let routes: Vec<_> = snapshot.routes.iter().filter_map(Suggestion::of).collect();
        let fits = snapshot.limit.as_ref().map(|limit| {
            let refused = limit.refused.iter().sum::<u64>() + limit.would_refuse;
            refused + limit.cancelled + limit.would_cancel == 0
        });
        Self {
            unknown: snapshot.routes.len() - routes.len(),
            routes,
            fits,
            limit: snapshot.limit,
        }
    }
}

impl Suggestion {
    fn of(route: &RouteSnapshot) -> Option<Self> {
        let peak = route.peak_bytes.as_ref().filter(|peak| peak.count >= FEW)?;
        let p99 = peak.percentile(0.99);
        Some(Self {
            method: route.method,
            route: route.route.clone(),
            requests: peak.count,
            mean: peak.mean() as u64,
            p99,
            max: peak.max,
            request_limit: p99
                .saturating_mul(2)
                .max(1)
                .checked_next_power_of_two()
                .unwrap_or(u64::MAX),
        })
    }
}

impl fmt::Display for Suggestions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        writeln!(
            f,
            "{:>10} {:>10} {:>10} {:>10} {:>14}  route",
            "requests", "mean KiB", "p99 KiB", "max KiB", "limit each KiB"
        )?;
        for it in &self.routes {
            writeln!(
                f,
                "{:>10} {:>10} {:>10} {:>10} {:>14}  {} {}",
                it.requests,
                kib(it.mean),
                kib(it.p99),
                kib(it.max),
                kib(it.request_limit),
                it.method,
                it.route
            )?;
        }
        if self.unknown > 0 {
            writeln!(f, "{} routes with fewer than {FEW} requests", self.unknown)?;
        }
        match (&self.limit, self.fits) {
            (Some(limit), Some(fits)) => {
                let fits = if fits {
                    "all requests have fit"
                } else {
                    "not all requests have fit"
                };
                write!(
                    f,
                    "process limit {} MiB ({}): {fits}",
                    limit.limit >> 20,
                    limit.limit_source
                )
            }
            _ => f.write_str("no process limit"),
        }
    }
}
