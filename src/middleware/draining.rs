use std::{fmt, time::Duration};

use http::{Request, request::Parts};

use super::head::with_head;
use crate::sync::Arc;

const RETRY_AFTER: Duration = Duration::from_secs(1);

// `MemoryLayerBuilder::shutdown_retry_after` states this default.
const _: () = assert!(RETRY_AFTER.as_secs() == 1);

/// Selects requests.
type Select = dyn Fn(&Parts) -> bool + Send + Sync;

/// What happens to requests that arrive during a shutdown.
#[derive(Clone)]
pub(super) struct Draining {
    /// Which of them are served.
    pub(super) serve: Option<Arc<Select>>,
    pub(super) retry_after: Duration,
}

impl Draining {
    pub(super) const fn new() -> Self {
        Self {
            serve: None,
            retry_after: RETRY_AFTER,
        }
    }

    /// Whether the request is served.
    pub(super) fn serves<B>(&self, request: &mut Request<B>) -> bool {
        let Some(serve) = &self.serve else {
            return false;
        };
        with_head(request, |head| serve(head))
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("serve", &self.serve.is_some())
            .field("retry_after", &self.retry_after)
            .finish()
    }
}
