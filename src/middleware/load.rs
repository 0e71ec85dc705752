use std::fmt;

use http::request::Parts;

use super::expose::Expose;
use crate::{
    limit::{Priority, ProcessLimit},
    sync::Arc,
};

/// What decides which requests are refused because of the load, and their answers.
#[derive(Clone)]
pub(super) struct Load {
    /// The limit of the process.
    pub(super) process: Option<ProcessLimit>,
    pub(super) priority: Option<Arc<Prioritize>>,
    /// Bytes of the pool's buffers from which on requests are refused.
    pub(super) max_unreleased: Option<usize>,
    /// Which clients are told of the load.
    pub(super) report: Expose,
}

/// Chooses a request's priority.
pub(super) type Prioritize = dyn Fn(&Parts) -> Priority + Send + Sync;

impl Load {
    pub(super) const fn new() -> Self {
        Self {
            process: None,
            priority: None,
            max_unreleased: None,
            report: Expose::Never,
        }
    }
}

impl Load {
    /// Whether a request may be refused, or is asked how urgent it is.
    pub(super) const fn looks(&self) -> bool {
        self.process.is_some() || self.max_unreleased.is_some() || self.priority.is_some()
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("process_limit", &self.process)
            .field("priority_from", &self.priority.is_some())
            .field("max_unreleased_bytes", &self.max_unreleased)
            .field("report_load", &self.report)
            .finish()
    }
}
