use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::{Request, Response};

use super::{
    config::Config, head::with_head, limit_context::LimitContext, limit_response::limit_response,
    request_info::RequestInfo,
};
use crate::{limit::Priority, scope::RequestScope};

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
        let context = match self.load.max_unreleased {
            Some(limit) if self.unreleased() >= limit => {
                LimitContext::unreleased(scope, limit, self.unreleased())
            }
            _ => LimitContext::refused(scope, scope.admit(priority, is_new).err()?),
        };
        Some(limit_response(context, info, self.responses.as_deref()))
    }

    /// Bytes that were handed out and are not released.
    fn unreleased(&self) -> usize {
        self.handle.layer.pool.buffer_bytes()
    }
}
