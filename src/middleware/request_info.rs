use http::{Method, Request, Version};

use crate::wire::{Protocol, header::HeaderFormat};

/// Properties of the request that are needed to build the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestInfo {
    /// How the figures are written, for a client that sees them.
    pub(super) exposed: Option<HeaderFormat>,
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) http1: bool,
    pub(super) protocol: Protocol,
}

impl RequestInfo {
    pub(super) fn of<B>(request: &Request<B>, exposed: Option<HeaderFormat>) -> Self {
        let method = request.method();
        Self {
            exposed,
            head: *method == Method::HEAD,
            connect: *method == Method::CONNECT,
            http1: request.version() < Version::HTTP_2,
            protocol: Protocol::of(method, request.headers()),
        }
    }
}
