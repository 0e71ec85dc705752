use crate::{
    account::aside,
    route::{KnownMethod, RouteKey},
    sync::OnceLock,
};

/// A value for each method of each route, made when it is first used.
pub(super) struct ByRoute<T> {
    routes: Box<[OnceLock<Box<[T; KnownMethod::COUNT]>>]>,
}

impl<T: Default> ByRoute<T> {
    pub(super) fn new(routes: usize) -> Self {
        Self {
            routes: std::iter::repeat_with(OnceLock::new).take(routes).collect(),
        }
    }

    pub(super) fn get(&self, key: RouteKey) -> &T {
        let make = || aside(|| Box::new(std::array::from_fn(|_| T::default())));
        &self.routes[key.route].get_or_init(make)[key.method.index()]
    }

    /// Iterates over the values of the routes that have any.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RouteKey, &T)> {
        let routes = self.routes.iter().enumerate();
        routes.flat_map(|(route, values)| {
            let values = values.get().into_iter().flat_map(|values| values.iter());
            let methods = KnownMethod::ALL.into_iter();
            methods
                .zip(values)
                .map(move |(method, value)| (RouteKey { route, method }, value))
        })
    }
}
