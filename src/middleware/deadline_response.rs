use std::{fmt, time::Duration};

use bytes::Bytes;
use http::Response;

use super::{deadline_context::DeadlineContext, limit_context::LimitContext};
use crate::{
    sharded::Sharded,
    sync::Arc,
    wire::{self, Protocol},
};

/// Responds to a request whose deadline has passed.
type Respond = dyn Fn(&DeadlineContext<'_>) -> Response<Bytes> + Send + Sync;

/// Responds to a request that is refused or cancelled because of memory.
type RespondForLimit = dyn Fn(&LimitContext<'_>) -> Response<Bytes> + Send + Sync;

/// A layer's settings for the responses that it makes itself. A layer with the default ones has none, so that its
/// requests change no reference count.
#[derive(Clone)]
pub(super) struct DeadlineResponses {
    pub(super) deadline: Option<Arc<Respond>>,
    pub(super) limit: Option<Arc<RespondForLimit>>,
    pub(super) retry_after: Option<Duration>,
}

impl DeadlineResponses {
    pub(super) const fn new() -> Self {
        Self {
            deadline: None,
            limit: None,
            retry_after: None,
        }
    }

    /// Shared by the requests, or `None` if nothing is set.
    pub(super) fn into_shared(self) -> Option<Sharded<Self>> {
        let is_set = self.deadline.is_some() || self.limit.is_some() || self.retry_after.is_some();
        is_set.then(|| Sharded::new(Arc::new(self)))
    }
}

/// Responds to a request whose deadline has passed, in the client's protocol and with the reason in the
/// extensions.
pub(super) fn deadline_response(
    mut context: DeadlineContext<'_>,
    protocol: Protocol,
    configured: Option<&DeadlineResponses>,
) -> Response<Bytes> {
    context.retry_after = configured.and_then(|configured| configured.retry_after);
    let custom = configured.and_then(|configured| configured.deadline.as_ref());
    let mut response = match (protocol.content_type(), custom) {
        (Some(content_type), _) => {
            wire::grpc_answer(content_type, wire::DEADLINE_EXCEEDED, &context.to_string())
        }
        (None, Some(custom)) => custom(&context),
        (None, None) => context.response(),
    };
    response.extensions_mut().insert(context.reason());
    response
}

impl fmt::Debug for DeadlineResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineResponses")
            .field("deadline", &self.deadline.is_some())
            .field("limit", &self.limit.is_some())
            .field("retry_after", &self.retry_after)
            .finish()
    }
}
