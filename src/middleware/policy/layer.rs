use tower_layer::Layer;

use super::service::PolicyService;
use crate::deadline::RoutePolicy;

impl<S> Layer<S> for RoutePolicy {
    type Service = PolicyService<S>;

    fn layer(&self, inner: S) -> PolicyService<S> {
        PolicyService::new(inner, *self)
    }
}
