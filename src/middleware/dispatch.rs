use http::Extensions;

use crate::{
    route::{RouteLabel, RouteRegistry, UNMATCHED},
    scope::{RequestScope, own_path},
    wire::matched_path,
};

/// How a request that reaches a layer or a policy belongs to the scopes around it.
///
/// Extensions can be cloned, so a scope in them does not say that the request is the scope's own. The
/// handle knows whether it is the one that the layer has passed on.
pub(super) enum Dispatch {
    /// It is the request of this scope, further in.
    Inside(RequestScope),
    /// It is a new request.
    New(Origin),
}

/// Where a new request comes from.
#[derive(Default)]
pub(super) struct Origin {
    /// The open request whose handler has sent this one: it is made of that one's extensions, or this
    /// thread works for that one.
    pub(super) parent: Option<RequestScope>,
    /// The request whose extensions this one is made of.
    copied: Option<Box<Copied>>,
}

/// A request whose extensions were copied.
struct Copied {
    /// Its path. A router of axum appends its own path to that.
    path: String,
    label: RouteLabel,
}

impl Origin {
    /// Of a request whose extensions hold a scope that is not its own.
    #[cold]
    fn of_copy(scope: &RequestScope) -> Self {
        Self {
            parent: Some(scope.clone()).filter(|scope| !scope.is_ended()),
            copied: Some(Box::new(Copied {
                path: scope.full_path(),
                label: scope.route(),
            })),
        }
    }

    /// The number of the new request's route, and whether a router has matched the request itself. A copy
    /// that no router has matched has the label of its original, unless the layer is configured with one.
    #[inline]
    pub(super) fn route(
        &self,
        extensions: &Extensions,
        configured: usize,
        routes: &RouteRegistry,
    ) -> (usize, bool) {
        match (matched_path(extensions), &self.copied) {
            (None, _) => (configured, false),
            (Some(matched), None) => (routes.number(matched), true),
            (Some(matched), Some(copied)) => copied.route(matched, configured, routes),
        }
    }

    /// The path of the request whose extensions this one is made of.
    #[inline]
    pub(super) fn into_path(self) -> Option<String> {
        self.copied.map(|copied| copied.path)
    }
}

impl Copied {
    /// As [`Origin::route`].
    #[cold]
    fn route(&self, matched: &str, configured: usize, routes: &RouteRegistry) -> (usize, bool) {
        let number = |label: &str| routes.number(label);
        match own_path(Some(&self.path), matched) {
            Some(own) => (number(own), true),
            None if configured == UNMATCHED => (number(self.label.as_str()), false),
            None => (configured, false),
        }
    }
}

impl Dispatch {
    /// For a service of a layer.
    #[inline]
    pub(super) fn at_layer(extensions: &Extensions) -> Self {
        match extensions.get::<RequestScope>() {
            None => Self::New(Origin {
                parent: RequestScope::current().filter(|scope| !scope.is_ended()),
                copied: None,
            }),
            Some(scope) => Self::with(scope),
        }
    }

    /// For a policy. A layer may follow, unless a handler has sent the request.
    pub(super) fn at_policy(extensions: &Extensions) -> Self {
        extensions
            .get::<RequestScope>()
            .map_or_else(|| Self::New(Origin::default()), Self::with)
    }

    /// Of a request whose extensions hold `scope`.
    fn with(scope: &RequestScope) -> Self {
        if is_own(scope) {
            Self::Inside(scope.clone())
        } else {
            Self::New(Origin::of_copy(scope))
        }
    }
}

/// Whether the request is the scope's own. After the scope's end its extensions were used again.
fn is_own(scope: &RequestScope) -> bool {
    scope.is_carried() && !scope.is_ended()
}
