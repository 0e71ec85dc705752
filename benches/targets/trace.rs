//! `trace/`: what the flight recorder takes of a poll, beside this crate without it.

use std::{
    convert::Infallible,
    future::pending,
    hint::black_box,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::trace::{self, TraceSettings};

use crate::{
    harness::{Contest, Report, Target, measure},
    sides::Side,
};

/// Nanoseconds that a poll may take more while it is recorded.
const MOST: f64 = 20.0;

/// A request that waits, polled again and again.
macro_rules! polls {
    ($memory:ident) => {{
        let layer = $memory::MemoryLayer::builder().route("/polled");
        let layer = layer.build().expect("valid");
        let service = layer.layer(service_fn(|_: Request<()>| {
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        }));
        let mut future = Box::pin(service.oneshot(Request::new(())));
        move || {
            let mut cx = Context::from_waker(black_box(Waker::noop()));
            let future: &mut Pin<Box<_>> = black_box(&mut future);
            let polled: Poll<_> = Future::poll(future.as_mut(), &mut cx);
            assert!(black_box(polled).is_pending());
        }
    }};
}

fn contest(threads: usize) -> Contest {
    let name = |what: &str| format!("trace/poll/{threads}_thread/{what}");
    Contest::new(
        ["off", "on"].map(name),
        move |report: &mut Report, [off_row, on_row]| {
            let [on, off, without] = measure([
                Side::on(threads, "recorder on", || {
                    if !trace::is_recording() {
                        TraceSettings::new().start();
                    }
                    polls!(tower_memory)
                }),
                Side::on(threads, "recorder off", || {
                    trace::stop();
                    polls!(tower_memory)
                }),
                Side::on(threads, "without the feature", || {
                    polls!(tower_memory_counters)
                }),
            ]);
            trace::stop();
            report.compare(off_row, &off, &without, Target::None);
            report.added(on_row, &on, &off, Some(MOST));
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([1, 2].map(contest));
}
