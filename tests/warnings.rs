//! Warnings as `tracing` events. A binary of its own: the subscriber is the process's.
#![cfg(feature = "tracing")]
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    fmt::{self, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{Expose, MemoryLayer, RequestScope};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Collects events as text, with their level.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(Level, String)>>>);

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_memory")
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = *event.metadata().level();
        self.0.lock().unwrap().push((level, text.0));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_place_whose_tasks_outlive_their_requests_is_warned_of_once() {
    let collector = Collector::default();
    tracing::subscriber::set_global_default(collector.clone()).unwrap();
    let layer = MemoryLayer::builder()
        .expose(Expose::Never)
        .grace_period(Duration::from_secs(1))
        .route("report")
        .build()
        .unwrap();
    let handle = layer.handle();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let service = layer.layer(service_fn({
        let lines = Arc::clone(&lines);
        move |request: Request<()>| {
            let scope = request.extensions().get::<RequestScope>().unwrap();
            let tasks = [
                (scope.spawn(std::future::pending::<()>()), line!()),
                (scope.spawn(std::future::pending::<()>()), line!()),
                (scope.spawn(async {}), line!()),
            ];
            *lines.lock().unwrap() = tasks.iter().map(|(_, line)| *line).collect::<Vec<_>>();
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        }
    }));
    for _ in 0..5 {
        drop(service.clone().oneshot(Request::new(())).await.unwrap());
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let lines = lines.lock().unwrap().clone();
    let events = collector.0.lock().unwrap().clone();
    assert_eq!(events.len(), 2, "{events:#?}");
    for ((level, text), line) in events.iter().zip(&lines) {
        assert_eq!(*level, Level::WARN);
        let place = format!("task.location={}:{line}:", file!());
        assert!(text.contains(&place), "{text}");
        assert!(text.contains("task.route=\"report\""), "{text}");
        assert!(text.contains("it was aborted"), "{text}");
    }
    // All of them are counted.
    let counts: Vec<_> = handle
        .task_overruns()
        .iter()
        .map(|place| (place.location.map(|at| at.line()), place.aborted))
        .collect();
    assert_eq!(counts, [(Some(lines[0]), 5), (Some(lines[1]), 5)]);
}

#[tokio::test]
async fn a_proxys_clock_that_is_wrong_is_warned_of_once() {
    let collector = Collector::default();
    let _default = tracing::subscriber::set_default(collector.clone());
    let layer = MemoryLayer::builder()
        .expose(Expose::Never)
        .timeout(Duration::from_secs(5))
        .trust_request_start()
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    for _ in 0..3 {
        // In 2001.
        let request = Request::builder().header("x-request-start", "t=1000000000");
        let response = service.clone().oneshot(request.body(()).unwrap()).await;
        assert_eq!(response.unwrap().status(), 200);
    }
    assert_eq!(layer.handle().snapshot().implausible_request_starts, 3);
    let events = collector.0.lock().unwrap().clone();
    let [(level, text)] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(*level, Level::WARN);
    for part in ["x-request-start", "max_queue_time", "ahead=0ns"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}
