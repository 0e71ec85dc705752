use http::{Method, Request, Version};

use super::exposed::Exposed;
use crate::wire::Protocol;

/// Properties of the request that are needed to build the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestInfo {
    /// For a client that sees the figures.
    pub(super) exposed: Option<Exposed>,
    /// For a client that is told of the load.
    pub(super) reports_load: bool,
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) http1: bool,
    pub(super) protocol: Protocol,
}

impl RequestInfo {
    #[inline]
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let method = request.method();
        Self {
            exposed: None,
            reports_load: false,
            head: matches!(*method, Method::HEAD),
            connect: matches!(*method, Method::CONNECT),
            http1: request.version() < Version::HTTP_2,
            protocol: Protocol::of(method, request.headers()),
        }
    }
}
