//! Answers, and the headers of all of them.

use std::fmt;

use axum::{
    extract::NestedPath,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    request::Parts,
};

use super::document::POLICY;
#[cfg(feature = "prometheus")]
use crate::observe::MemoryHandle;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
#[cfg(feature = "prometheus")]
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where relative links to other pages start. A nested router's first page is the path that it is nested at, mostly
/// without a slash at the end. (The URI as it was sent would tell, too, but axum stores that in each request of each
/// router of the process.)
pub(super) fn base(parts: &Parts) -> String {
    let nested = parts.extensions.get::<NestedPath>();
    let last = nested.and_then(|nested| nested.as_str().rsplit('/').next());
    // A page but the first is beside its siblings.
    let is_first = parts.uri.path() == "/";
    match last {
        Some(last) if is_first && !last.is_empty() => format!("./{last}/"),
        _ => "./".to_owned(),
    }
}

pub(super) fn refused(status: StatusCode, why: &dyn fmt::Display) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], format!("{why}\n")).into_response()
}

pub(super) fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => ([(CONTENT_TYPE, JSON)], json).into_response(),
        Err(_) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            &"the snapshot cannot be written",
        ),
    }
}

#[cfg(feature = "prometheus")]
pub(super) fn metrics(handle: &MemoryHandle) -> Response {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    let mut registry = Registry::default();
    registry.register_collector(Box::new(handle.collector()));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, METRICS)], text).into_response(),
        Err(_) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            &"the metrics cannot be written",
        ),
    }
}

/// Headers of all answers.
pub(super) fn protect(headers: &mut HeaderMap) {
    let fixed = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
