use crate::cancel::Cancelled;

/// An extension of the response of a call that a limit has ended, for the layers around it: if the
/// response is the request's, the request has exceeded that limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndedInside {
    /// The limit: a deadline, or what the request holds.
    pub(super) cause: Cancelled,
    pub(super) on_arrival: bool,
    pub(super) wants_body: bool,
    /// Whether a layer has made the response. The nearest layer replaces a policy's by its own.
    pub(super) answered: bool,
}
