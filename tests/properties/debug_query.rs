//! No path and no query makes a debug page panic, or show what was sent.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use axum::{Router, body::Body};
use http::{Request, Uri, header::HOST};
use http_body::Body as _;
use tower::ServiceExt;
use tower_memory::{MemoryLayer, debug::DebugPages};

/// Panics if something does not hold. The data is a path with a query.
pub(crate) fn holds(data: &[u8]) {
    let path = [b"/", data].concat();
    let Ok(uri) = Uri::try_from(&path[..]) else {
        return;
    };
    let pages: Router = DebugPages::new(&MemoryLayer::new().handle())
        .allow(|_| true)
        .into_router();
    let request = Request::get(uri.clone()).header(HOST, "localhost");
    let request = request.body(Body::empty()).expect("valid");
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = pin!(pages.oneshot(request)).poll(&mut cx) else {
        panic!("a page waits for nothing");
    };
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let Poll::Ready(Some(Ok(frame))) = pin!(&mut body).poll_frame(&mut cx) else {
        panic!("a page is one frame");
    };
    let text = frame.into_data().expect("data");
    let text = std::str::from_utf8(&text).expect("text");
    let query = uri.query().unwrap_or("");
    match status {
        200 => {
            for part in query.split('&').filter(|part| !part.is_empty()) {
                let (name, value) = part.split_once('=').expect("a value");
                assert!(["sort", "order", "from"].contains(&name), "{query}");
                assert!(
                    value
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
                );
            }
        }
        400 => assert!(text.len() < 200 && !text.contains(['<', '"']), "{text}"),
        404 => assert_eq!(text, "there is no such debug page\n"),
        _ => panic!("{status} for {uri}"),
    }
    let sent = [uri.path(), query];
    assert!(
        sent.iter()
            .all(|sent| sent.len() < 24 || !text.contains(sent)),
        "{uri}"
    );
}
