use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::{Request, Response};

use super::{
    config::Config, limit_context::LimitContext, limit_response::limit_response,
    request_info::RequestInfo,
};
use crate::{
    limit::Priority,
    scope::{OpenScope, RequestScope},
};

impl Config {
    /// The priority of a request, if it has one of its own. The function takes the request's parts, which are
    /// put together again.
    #[inline]
    pub(super) fn priority<B>(&self, request: Request<B>) -> (Request<B>, Option<Priority>) {
        let Some(prioritize) = &self.load.priority else {
            return (request, None);
        };
        let (parts, body) = request.into_parts();
        let priority = catch_unwind(AssertUnwindSafe(|| prioritize(&parts)));
        let priority = priority.unwrap_or_default();
        (Request::from_parts(parts, body), Some(priority))
    }

    /// Admits a new request, or returns the answer to it.
    #[inline]
    pub(super) fn refuses(
        &self,
        open: &OpenScope,
        priority: Option<Priority>,
        info: RequestInfo,
    ) -> Option<Response<Bytes>> {
        if self.load.max_unreleased.is_none() && self.load.process.is_none() {
            return None;
        }
        self.refuses_by_load(open.scope(), priority, info)
    }

    #[inline(never)]
    fn refuses_by_load(
        &self,
        scope: &RequestScope,
        priority: Option<Priority>,
        info: RequestInfo,
    ) -> Option<Response<Bytes>> {
        let context = match self.load.max_unreleased {
            Some(limit) if self.unreleased() >= limit => {
                LimitContext::unreleased(scope, limit, self.unreleased())
            }
            _ => LimitContext::refused(scope, scope.admit(priority).err()?),
        };
        Some(limit_response(context, info, self.responses.as_deref()))
    }

    /// Bytes that were handed out and are not released.
    fn unreleased(&self) -> usize {
        self.handle.layer.pool.buffer_bytes()
    }
}
