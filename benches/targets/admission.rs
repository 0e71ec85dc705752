//! `admission/`: what a limit for the process costs a request, on one thread and on two.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};
use tower_memory::{Expose, MemoryLayer, limit::ProcessLimit};

use crate::{
    harness::{Contest, Report, Target, measure},
    sides::Side,
};

/// How much more two threads may cost per request than one.
const MOST: f64 = 1.1;

/// A layer whose requests all fit.
fn layer(limit: Option<&ProcessLimit>) -> MemoryLayer {
    let builder = MemoryLayer::builder().expose(Expose::Never);
    let builder = match limit {
        Some(limit) => builder.process_limit(limit),
        None => builder,
    };
    builder.build().expect("valid settings")
}

/// Requests of one thread, without a router: it has lines of its own that threads share.
fn requests(layer: &MemoryLayer) -> impl FnMut() + use<> {
    let mut service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    }));
    move || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let response = pin!(service.call(Request::new(()))).poll(&mut cx);
        let Poll::Ready(Ok(response)) = response else {
            panic!("the handler is ready");
        };
        assert_eq!(response.status(), 200, "admitted");
    }
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.push(Contest::new(
        [
            "admission/request/two_threads",
            "admission/added/two_threads",
            "admission/request/one_thread",
        ]
        .map(str::to_owned),
        |report: &mut Report, [request_row, added_row, alone_row]| {
            let limit = ProcessLimit::builder().bytes(1 << 40).build();
            let limit = limit.expect("valid settings");
            let (limited, bare) = (layer(Some(&limit)), layer(None));
            let side = |threads, label, layer: &MemoryLayer| {
                let layer = layer.clone();
                Side::on(threads, label, move || requests(&layer))
            };
            let [two, one, two_bare, one_bare] = measure([
                side(2, "two threads", &limited),
                side(1, "one thread", &limited),
                side(2, "two threads, no limit", &bare),
                side(1, "one thread, no limit", &bare),
            ]);
            let target = Target::AtMost(MOST);
            report.compare(request_row, &two, &one, target);
            report.compare(
                added_row,
                &two.above(&two_bare),
                &one.above(&one_bare),
                target,
            );
            report.compare(alone_row, &one, &one_bare, Target::None);
            let snapshot = limit.snapshot();
            assert!(snapshot.admitted > 0 && snapshot.refused == [0; 3]);
        },
    ));
}
