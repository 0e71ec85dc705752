use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::{Request, Response};

use super::{
    config::Config, head::with_head, limit_context::LimitContext, limit_response::limit_response,
    request_info::RequestInfo,
};
use crate::{
    limit::{Priority, Refusal},
    scope::RequestScope,
};

impl Config {
    /// The priority of a request, if it has one of its own.
    pub(super) fn priority<B>(&self, request: &mut Request<B>) -> Option<Priority> {
        let prioritize = self.load.priority.as_ref()?;
        let priority = with_head(request, |head| {
            catch_unwind(AssertUnwindSafe(|| prioritize(head)))
        });
        Some(priority.unwrap_or_default())
    }

    /// Admits a new request, or returns the answer to it. `is_new` says that it has not waited before.
    #[inline(never)]
    pub(super) fn refuses(
        &self,
        scope: &RequestScope,
        priority: Option<Priority>,
        is_new: bool,
        info: RequestInfo,
    ) -> Option<Response<Bytes>> {
        if let Some(limit) = self.load.max_unreleased {
            if self.unreleased() >= limit {
                return Some(self.refuse_unreleased(scope, limit, info));
            }
        }
        match scope.admit(priority, is_new) {
            Ok(()) => None,
            Err(refusal) => Some(self.refuse(scope, &refusal, info)),
        }
    }

    // Apart, as the next one, so that an admitted request needs no room for a refusal.
    #[inline(never)]
    fn refuse_unreleased(
        &self,
        scope: &RequestScope,
        limit: usize,
        info: RequestInfo,
    ) -> Response<Bytes> {
        let context = LimitContext::unreleased(scope, limit, self.unreleased());
        limit_response(context, info, self.responses.as_deref())
    }

    #[inline(never)]
    fn refuse(
        &self,
        scope: &RequestScope,
        refusal: &Refusal,
        info: RequestInfo,
    ) -> Response<Bytes> {
        let context = LimitContext::refused(scope, *refusal);
        limit_response(context, info, self.responses.as_deref())
    }

    /// Bytes that were handed out and are not released.
    fn unreleased(&self) -> usize {
        self.handle.layer.pool.buffer_bytes()
    }
}
