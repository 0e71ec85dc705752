use http::Extensions;

use crate::{
    scope::{LayerState, RequestScope},
    sync::Arc,
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
    /// The path of the request whose extensions this one is made of. A router of axum appends its own
    /// path to that.
    pub(super) path: Option<String>,
}

impl Origin {
    /// Of a request whose extensions hold a scope that is not its own.
    #[cold]
    fn of_copy(scope: &RequestScope) -> Self {
        Self {
            parent: Some(scope.clone()).filter(|scope| !scope.is_ended()),
            path: Some(scope.full_path()),
        }
    }
}

impl Dispatch {
    /// For a service of `layer`. A request does not pass the same layer twice, so one that does has been
    /// sent anew.
    pub(super) fn at_layer(extensions: &Extensions, layer: &Arc<LayerState>) -> Self {
        match extensions.get::<RequestScope>() {
            None => {
                let current = RequestScope::current().filter(|scope| !scope.is_ended());
                Self::New(Origin {
                    parent: current,
                    path: None,
                })
            }
            Some(scope) if is_own(scope) && !scope.is_opened_by(layer) => {
                Self::Inside(scope.clone())
            }
            Some(scope) => Self::New(Origin::of_copy(scope)),
        }
    }

    /// For a policy. A layer may follow, unless a handler has sent the request.
    pub(super) fn at_policy(extensions: &Extensions) -> Self {
        match extensions.get::<RequestScope>() {
            None => Self::New(Origin::default()),
            Some(scope) if is_own(scope) => Self::Inside(scope.clone()),
            Some(scope) => Self::New(Origin::of_copy(scope)),
        }
    }
}

/// Whether the request is the scope's own. After the scope's end its extensions were used again.
fn is_own(scope: &RequestScope) -> bool {
    scope.is_carried() && !scope.is_ended()
}
