//! What is served under which path.

use std::sync::Arc;

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
    request::Parts,
};

#[cfg(feature = "prometheus")]
use super::answer::metrics;
#[cfg(any(feature = "trace", feature = "profile"))]
use super::capture::{Capture, Captures};
use super::{
    access::Access,
    answer::{base, json, protect, refused},
    document::document,
    history::History,
    page,
    query::{BadQuery, Query},
    requests,
    routes::View,
};
use crate::observe::MemoryHandle;

const HTML: &str = "text/html; charset=utf-8";

/// The pages' links to one another.
const LINKS: &[(&str, &str)] = &[
    ("overview", "Overview"),
    ("requests", "Requests"),
    ("tasks", "Tasks"),
    ("snapshot.json", "snapshot.json"),
    #[cfg(feature = "prometheus")]
    ("metrics", "metrics"),
    #[cfg(feature = "trace")]
    ("trace", "trace"),
    #[cfg(feature = "profile")]
    ("pprof/heap?debug=1", "heap"),
    #[cfg(feature = "profile")]
    ("pprof/allocs?debug=1", "allocs"),
];

/// What is served under a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Page {
    Overview,
    Requests,
    Tasks,
    Snapshot,
    #[cfg(feature = "prometheus")]
    Metrics,
    #[cfg(any(feature = "trace", feature = "profile"))]
    Capture(Capture),
    Unknown,
}

pub(super) const PAGES: &[(&str, Page)] = &[
    ("/", Page::Overview),
    // A router that is nested serves its root with a slash at the end or without one, and does not know which.
    ("/overview", Page::Overview),
    ("/requests", Page::Requests),
    ("/tasks", Page::Tasks),
    ("/snapshot.json", Page::Snapshot),
    #[cfg(feature = "prometheus")]
    ("/metrics", Page::Metrics),
    #[cfg(feature = "trace")]
    ("/trace", Page::Capture(Capture::Trace)),
    #[cfg(feature = "profile")]
    ("/pprof/heap", Page::Capture(Capture::Heap)),
    #[cfg(feature = "profile")]
    ("/pprof/allocs", Page::Capture(Capture::Allocs)),
];

pub(super) struct Pages {
    handle: MemoryHandle,
    access: Access,
    history: Arc<History>,
    #[cfg(any(feature = "trace", feature = "profile"))]
    captures: Captures,
}

impl Pages {
    pub(super) fn new(handle: MemoryHandle, access: Access, history: Arc<History>) -> Self {
        Self {
            handle,
            access,
            history,
            #[cfg(any(feature = "trace", feature = "profile"))]
            captures: Captures::default(),
        }
    }

    pub(super) async fn serve(&self, page: Page, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        // It is not read, and a page may wait.
        drop(body);
        let mut response = match self.access.check(&parts) {
            Err(refusal) => refused(StatusCode::FORBIDDEN, &refusal),
            Ok(()) if parts.method != Method::GET => {
                let mut response =
                    refused(StatusCode::METHOD_NOT_ALLOWED, &"GET is the only method");
                let get = HeaderValue::from_static("GET");
                response.headers_mut().insert(ALLOW, get);
                response
            }
            Ok(()) => {
                let answer = match page {
                    #[cfg(any(feature = "trace", feature = "profile"))]
                    Page::Capture(what) => self.captures.answer(what, parts.uri.query()).await,
                    page => self.answer(page, &parts),
                };
                answer.unwrap_or_else(|bad| refused(StatusCode::BAD_REQUEST, &bad))
            }
        };
        protect(response.headers_mut());
        response
    }

    fn answer(&self, page: Page, parts: &Parts) -> Result<Response, BadQuery> {
        let query = |names| Query::parse(parts.uri.query(), names);
        let base = base(parts);
        let html = |title, content| {
            let text = document(title, &base, LINKS, &content);
            ([(CONTENT_TYPE, HTML)], text).into_response()
        };
        Ok(match page {
            #[cfg(any(feature = "trace", feature = "profile"))]
            Page::Capture(_) => unreachable!("answered by the caller"),
            Page::Unknown => refused(StatusCode::NOT_FOUND, &"there is no such debug page"),
            Page::Overview => {
                let view = View::of(&query(View::PARAMETERS)?)?;
                html(
                    "Memory by route",
                    page::overview(&self.handle, &self.history, view, &base),
                )
            }
            Page::Requests => {
                query(&[])?;
                html("Requests", requests::page(&self.handle))
            }
            Page::Tasks => {
                query(&[])?;
                html("Tasks", page::all_tasks(&self.handle))
            }
            Page::Snapshot => {
                query(&[])?;
                json(&self.handle.snapshot())
            }
            #[cfg(feature = "prometheus")]
            Page::Metrics => {
                query(&[])?;
                metrics(&self.handle)
            }
        })
    }
}
