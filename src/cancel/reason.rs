use std::fmt;

use super::outcome::Outcome;
use crate::deadline::DeadlineSource;

/// Why a request's token was cancelled: the [`Outcome`] and, if a deadline passed, its source.
///
/// The first reason stays. It compares equal to its outcome; `Display` is a sentence for error
/// messages, and [`Outcome::as_str`] is the name for metric labels.
///
/// # Examples
///
/// ```
/// use tower_memory::{Outcome, RequestScope};
///
/// async fn handler(scope: RequestScope) {
///     tokio::spawn(async move {
///         let reason = scope.cancelled().await;
///         if reason == Outcome::DeadlineExceeded {
///             let source = reason.deadline_source().expect("it was a deadline");
///             assert_eq!(reason.to_string(), format!("the deadline set by {source} passed"));
///         }
///     });
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CancelReason {
    outcome: Outcome,
    source: Option<DeadlineSource>,
}

/// The bits of a code that hold the outcome.
const OUTCOME_BITS: u32 = 4;

/// Every code fits into this many bits.
pub(super) const CODE_BITS: u32 = 8;

// A code holds one more than the position, since zero is no reason.
const _: () = assert!(Outcome::ALL.len() < 1 << OUTCOME_BITS);
const _: () = assert!(DeadlineSource::ALL.len() < 1 << (CODE_BITS - OUTCOME_BITS));

impl CancelReason {
    /// A reason other than a deadline.
    pub(crate) const fn new(outcome: Outcome) -> Self {
        debug_assert!(!matches!(outcome, Outcome::DeadlineExceeded));
        Self {
            outcome,
            source: None,
        }
    }

    /// The deadline of this source passed.
    pub(crate) const fn deadline(source: DeadlineSource) -> Self {
        Self {
            outcome: Outcome::DeadlineExceeded,
            source: Some(source),
        }
    }

    /// The reason of a request that another one has sent, after that one was cancelled for this reason.
    pub(crate) const fn inherited(self) -> Self {
        match self.outcome {
            // That the other one has failed, or has not waited, says nothing about this one.
            Outcome::Completed
            | Outcome::MemoryExceeded
            | Outcome::NotUpgraded
            | Outcome::Panicked
            | Outcome::ServiceError => Self::new(Outcome::Cancelled),
            Outcome::Abandoned
            | Outcome::Cancelled
            | Outcome::ClientGone
            | Outcome::DeadlineExceeded
            | Outcome::MemoryPressure
            | Outcome::Shed
            | Outcome::Shutdown => self,
        }
    }

    /// Returns the outcome that a request with this reason is counted under.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        self.outcome
    }

    /// Returns the source of the deadline that passed, or `None` for other reasons.
    #[must_use]
    pub const fn deadline_source(self) -> Option<DeadlineSource> {
        self.source
    }

    /// A number below `1 << CODE_BITS` that is never zero.
    pub(super) const fn to_code(self) -> u32 {
        let source = match self.source {
            Some(source) => source.code(),
            None => 0,
        };
        ((self.outcome.index() + 1) | source << OUTCOME_BITS) as u32
    }

    /// The reason of a code; `None` for zero.
    pub(super) fn from_code(code: u32) -> Option<Self> {
        let code = code as usize;
        let outcome = (code & ((1 << OUTCOME_BITS) - 1)).checked_sub(1)?;
        Some(Self {
            outcome: *Outcome::ALL.get(outcome)?,
            source: DeadlineSource::from_code(code >> OUTCOME_BITS),
        })
    }
}

impl PartialEq<Outcome> for CancelReason {
    fn eq(&self, outcome: &Outcome) -> bool {
        self.outcome == *outcome
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = self.source {
            return write!(f, "the deadline set by {source} passed");
        }
        f.write_str(match self.outcome {
            Outcome::Abandoned => "the response was abandoned",
            Outcome::Cancelled => "the application cancelled the request",
            Outcome::ClientGone => "the client went away",
            Outcome::Completed => "the response is complete",
            Outcome::DeadlineExceeded => "a deadline passed",
            Outcome::MemoryExceeded => "the request exceeded its memory limit",
            Outcome::MemoryPressure => "the request was cancelled to free memory",
            Outcome::NotUpgraded => "the connection was not upgraded",
            Outcome::Panicked => "the handler panicked",
            Outcome::ServiceError => "the service failed",
            Outcome::Shed => "the server is overloaded",
            Outcome::Shutdown => "the server is shutting down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_its_code() {
        let deadlines = DeadlineSource::ALL
            .iter()
            .copied()
            .map(CancelReason::deadline);
        let others = Outcome::ALL
            .iter()
            .copied()
            .filter(|outcome| *outcome != Outcome::DeadlineExceeded)
            .map(CancelReason::new);
        for reason in deadlines.chain(others) {
            assert!((1..1 << CODE_BITS).contains(&reason.to_code()));
            assert_eq!(CancelReason::from_code(reason.to_code()), Some(reason));
        }
        assert_eq!(CancelReason::from_code(0), None);
    }
}
