//! The list of open requests, for a layer that keeps one.

use tokio::time::Instant;

use super::{live::LiveRequest, shutdown::OpenRequest};
use crate::{
    counted::Counted,
    slab::{Key, ShardedSlab},
};

/// Shards of the list, so that threads seldom share a lock.
const SHARDS: usize = 64;

/// The open requests of a layer.
#[derive(Default)]
pub(crate) struct OpenList(ShardedSlab<Counted<dyn OpenRequest>, SHARDS>);

impl OpenList {
    pub(super) fn insert(&self, request: Counted<dyn OpenRequest>) -> Key {
        self.0.insert(request)
    }

    /// The caller drops it, after the lock is released.
    pub(super) fn remove(&self, key: Key) -> Option<Counted<dyn OpenRequest>> {
        self.0.remove(key)
    }

    /// What is known of each open request, oldest first.
    pub(crate) fn requests(&self) -> Vec<LiveRequest> {
        // Read without the locks: a request that ends meanwhile is left out below.
        let open = self.0.filter_map(|request| Some(request.clone()));
        let now = Instant::now();
        let mut requests: Vec<_> = open
            .iter()
            .filter(|request| request.is_open())
            .map(|request| request.live(now))
            .collect();
        requests.sort_by_key(|request| std::cmp::Reverse(request.age));
        requests
    }
}
