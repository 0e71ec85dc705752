use super::{
    deadline_response::DeadlineResponses, draining::Draining, expose::Expose, exposed::Exposed,
    load::Load, trust::Trust,
};
use crate::{
    deadline::FirstLimits,
    observe::MemoryHandle,
    scope::{LayerState, PoolRelief, RoutePolicy},
    sharded::Sharded,
    sync::Arc,
};

/// What all services of one layer share.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) handle: MemoryHandle,
    /// The same layer as the handle's, for references of requests.
    pub(super) layer: Sharded<LayerState>,
    pub(super) limits: RoutePolicy,
    /// The same for requests that have no others.
    pub(super) first: FirstLimits,
    /// `None` if no header is trusted.
    pub(super) trust: Option<Trust>,
    /// `None` if all are the default ones.
    pub(super) responses: Option<Sharded<DeadlineResponses>>,
    pub(super) expose: Expose,
    /// The figures that clients selected by `expose` see.
    pub(super) exposed: Exposed,
    pub(super) draining: Draining,
    /// Which requests are refused because of the load.
    pub(super) load: Load,
    /// Whether some clients see figures, or are told of the load.
    pub(super) tells: bool,
    /// Whether a request may be refused because of the load, or has a limit for what it holds.
    pub(super) limits_memory: bool,
    /// What the limit of the process refers to.
    pub(super) _relief: Arc<PoolRelief>,
    /// The label of requests that no router has labelled.
    pub(super) route: usize,
}
