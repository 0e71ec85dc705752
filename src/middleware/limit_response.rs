use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::{
    deadline_response::DeadlineResponses, limit_context::LimitContext, request_info::RequestInfo,
};
use crate::wire::{self, Protocol};

/// Responds to a request that is refused or cancelled because of memory, in the client's protocol and with
/// the reason in the extensions.
pub(super) fn limit_response(
    mut context: LimitContext<'_>,
    info: RequestInfo,
    configured: Option<&DeadlineResponses>,
) -> Response<Bytes> {
    context.exposed = info.exposed.is_some();
    let configured_delay = configured.and_then(|configured| configured.retry_after);
    if context.retry_after.is_some() && configured_delay.is_some() {
        context.retry_after = configured_delay;
    }
    let custom = configured.and_then(|configured| configured.limit.as_ref());
    let mut response = match (info.protocol, custom) {
        (Protocol::Plain, None) => context.response(),
        (Protocol::Plain, Some(custom)) => {
            let made = catch_unwind(AssertUnwindSafe(|| custom(&context)));
            made.unwrap_or_else(|_| context.response())
        }
        (protocol, _) => {
            let status = if context.permanent {
                wire::RESOURCE_EXHAUSTED
            } else {
                wire::UNAVAILABLE
            };
            let kind = HeaderValue::from_static("application/grpc");
            let content_type = protocol.content_type().unwrap_or(kind);
            wire::grpc_answer(content_type, status, &context.to_string())
        }
    };
    response.extensions_mut().insert(context.reason());
    response
}
