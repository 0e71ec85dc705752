use bytes::Bytes;
use http::Response;

use super::{
    deadline_context::DeadlineContext,
    deadline_response::{DeadlineResponses, deadline_response},
    ended_inside::EndedInside,
    limit_context::LimitContext,
    limit_response::limit_response,
    request_info::RequestInfo,
};
use crate::scope::RequestScope;

/// Responds to a request, or a call, that a limit has ended.
pub(super) fn response_of(
    scope: &RequestScope,
    ended: EndedInside,
    info: RequestInfo,
    responses: Option<&DeadlineResponses>,
) -> Response<Bytes> {
    match ended.cause.reason().deadline_source() {
        Some(source) => {
            let mut context = DeadlineContext::on_arrival(scope, source, info);
            (context.on_arrival, context.wants_body) = (ended.on_arrival, ended.wants_body);
            deadline_response(context, info.protocol, responses)
        }
        None => limit_response(LimitContext::cancelled(scope, ended), info, responses),
    }
}
