use tower_layer::Layer;

use super::service::PolicyService;
use crate::scope::MemoryPolicy;

impl<S> Layer<S> for MemoryPolicy {
    type Service = PolicyService<S>;

    fn layer(&self, inner: S) -> PolicyService<S> {
        PolicyService::new(inner, *self)
    }
}
