//! Whether a layer covers routes: a `Router` covers those that were added before `Router::layer`.
//!
//! axum applies a layer to each of a router's routes and fallbacks. So a layer that was applied as often
//! as to a router without routes covers fallbacks only. They may be meant (a file server), so the layer's
//! first requests must also have found nothing.

use std::{
    any::type_name,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Router, routing::Route};

use super::warn::warn_no_routes;
use crate::{route::UNMATCHED, scope::Closed};

/// Requests that must have found nothing.
const REQUESTS: u32 = 16;

/// What one layer was applied to, and what became of its first requests.
pub(super) struct Coverage {
    /// How often the layer was applied to one of a router's routes or fallbacks.
    to_router: AtomicU32,
    /// How often it was applied to something else.
    elsewhere: AtomicU32,
    /// Requests without a route, answered with `404`; [`REQUESTS`] or more if nothing more is to be learned.
    lost: AtomicU32,
}

/// How often axum applies the layer of a router without routes.
fn times_without_routes() -> u32 {
    static TIMES: OnceLock<u32> = OnceLock::new();
    *TIMES.get_or_init(|| {
        let times = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&times);
        let layer = tower_layer::layer_fn(move |route: Route| {
            count.fetch_add(1, Ordering::Relaxed);
            route
        });
        drop(Router::<()>::new().layer(layer));
        times.load(Ordering::Relaxed)
    })
}

impl Coverage {
    pub(super) const fn new() -> Self {
        Self {
            to_router: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            lost: AtomicU32::new(0),
        }
    }

    /// The layer was applied to a service of type `S`.
    pub(super) fn applied_to<S>(&self) {
        let to_router = type_name::<S>() == type_name::<Route>();
        let times = if to_router {
            &self.to_router
        } else {
            &self.elsewhere
        };
        times.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has closed. Returns whether further ones are of use.
    #[inline]
    pub(super) fn closed(&self, closed: &Closed<'_>) -> bool {
        // Relaxed: counters, which publish no other memory.
        let learns = self.lost.load(Ordering::Relaxed) < REQUESTS;
        if learns {
            self.learn(closed);
        }
        learns
    }

    #[cold]
    fn learn(&self, closed: &Closed<'_>) {
        if closed.key.route != UNMATCHED || closed.status != Some(404) {
            self.lost.store(REQUESTS, Ordering::Relaxed);
        } else if self.lost.fetch_add(1, Ordering::Relaxed) == REQUESTS - 1
            && self.elsewhere.load(Ordering::Relaxed) == 0
            && self.to_router.load(Ordering::Relaxed) == times_without_routes()
        {
            warn_no_routes();
        }
    }
}
