use bytes::Bytes;
use http_body::Body;

use crate::cancel::{CancelReason, Outcome};

/// The bytes of a body that are still to be yielded; [`UNKNOWN`] if its length is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLength(u64);

const UNKNOWN: u64 = u64::MAX;

impl BodyLength {
    /// No body.
    pub(super) const NONE: Self = Self(0);

    #[inline]
    pub(super) fn of<B: Body>(body: &B) -> Self {
        if body.is_end_stream() {
            return Self::NONE;
        }
        Self(body.size_hint().exact().unwrap_or(UNKNOWN))
    }

    pub(super) const fn of_bytes(bytes: &Bytes) -> Self {
        Self(bytes.len() as u64)
    }

    /// The same, or the length in the response's header if the body does not know its own.
    #[inline]
    pub(super) fn or_exact(self, length: impl FnOnce() -> Option<u64>) -> Self {
        if self.is_unknown() {
            return Self(length().unwrap_or(UNKNOWN));
        }
        self
    }

    pub(super) const fn is_unknown(self) -> bool {
        self.0 == UNKNOWN
    }

    /// Whether nothing is left, so that a drop from here on is no failure.
    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Why the scope of a body that is dropped with this much left ends.
    pub(super) const fn reason_of_drop(self) -> CancelReason {
        CancelReason::new(if self.is_none() {
            Outcome::Completed
        } else {
            Outcome::Abandoned
        })
    }

    /// A frame of `bytes` was yielded.
    pub(super) fn record(&mut self, bytes: usize) {
        if !self.is_unknown() {
            self.0 = self.0.saturating_sub(bytes as u64);
        }
    }
}
