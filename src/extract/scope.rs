use std::convert::Infallible;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::request::Parts;

use super::rejection::MissingMemoryLayer;
use crate::{arena::Arena, limit::Pressure, scope::RequestScope, wire::matched_path};

/// Returns the request's scope. If the layer is around the router, this also sets the route label.
pub(super) fn scope(parts: &Parts) -> Option<RequestScope> {
    let scope = parts.extensions.get::<RequestScope>()?;
    if let Some(path) = matched_path(&parts.extensions) {
        scope.set_matched_path(path);
    }
    Some(scope.clone())
}

/// Extracts the scope of the request, or rejects the request if there is no layer.
impl<S: Sync> FromRequestParts<S> for RequestScope {
    type Rejection = MissingMemoryLayer;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        scope(parts).ok_or_else(|| MissingMemoryLayer::new("RequestScope"))
    }
}

/// Extracts the scope of the request, or `None` if there is no layer.
impl<S: Sync> OptionalFromRequestParts<S> for RequestScope {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(scope(parts))
    }
}

/// Extracts how tight memory is, or `None` if there is no layer, or it has no limit for the process.
impl<S: Sync> OptionalFromRequestParts<S> for Pressure {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(scope(parts).and_then(|scope| scope.pressure()))
    }
}

/// Extracts a handle to the request's arena, or rejects the request if there is no layer.
impl<S: Sync> FromRequestParts<S> for Arena {
    type Rejection = MissingMemoryLayer;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        scope(parts)
            .map(|scope| scope.arena().clone())
            .ok_or_else(|| MissingMemoryLayer::new("Arena"))
    }
}

/// Extracts a handle to the request's arena, or `None` if there is no layer.
impl<S: Sync> OptionalFromRequestParts<S> for Arena {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(scope(parts).map(|scope| scope.arena().clone()))
    }
}
