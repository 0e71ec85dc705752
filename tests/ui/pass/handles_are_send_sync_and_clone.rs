use tower_memory::{
    Arena, ArenaPool, MemoryHandle, MemoryLayer, MemoryService, RequestScope, RoutePolicy,
    ScopeReport, TrackingAllocator,
    client::{PropagateDeadline, PropagateDeadlineLayer},
    extract::RouteLabelLayer,
    middleware::{PolicyService, RequestBodyLayer, RequestBodyService},
    pool::PoolBuilder,
    scope::RouteLabel,
};

fn handle<T: Send + Sync + Clone + 'static>() {}

fn main() {
    handle::<Arena>();
    handle::<ArenaPool>();
    handle::<MemoryHandle>();
    handle::<MemoryLayer>();
    handle::<RoutePolicy>();
    handle::<MemoryService<()>>();
    handle::<PolicyService<()>>();
    handle::<PoolBuilder>();
    handle::<PropagateDeadline<()>>();
    handle::<PropagateDeadlineLayer>();
    handle::<RequestBodyLayer>();
    handle::<RequestBodyService<()>>();
    handle::<RequestScope>();
    handle::<RouteLabel>();
    handle::<RouteLabelLayer>();
    handle::<ScopeReport>();
    handle::<TrackingAllocator>();
}
