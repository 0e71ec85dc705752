//! One `tracing` event for each request.
#![cfg(feature = "tracing")]
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    hint::black_box,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_memory::{
    MemoryLayer, RequestScope, ScopeReport, TrackingAllocator, observe::RequestLog,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{layer::Context, layer::SubscriberExt, registry::LookupSpan};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

type Fields = BTreeMap<&'static str, String>;

/// What the subscriber has seen: events with their level and the name of their span, and records in spans.
#[derive(Default)]
struct Seen {
    events: Vec<(Level, Option<String>, Fields)>,
    spans: Fields,
    panics: bool,
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Seen>>);

struct Text<'a>(&'a mut Fields);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != "tower_memory::request" {
            return;
        }
        let mut fields = Fields::new();
        event.record(&mut Text(&mut fields));
        let span = context.event_span(event);
        let span = span.map(|span| span.name().to_owned());
        let panics = {
            let mut seen = self.0.lock().unwrap();
            seen.events.push((*event.metadata().level(), span, fields));
            seen.panics
        };
        assert!(!panics, "as the test wants");
    }

    fn on_record(&self, _: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        values.record(&mut Text(&mut self.0.lock().unwrap().spans));
    }
}

fn request_span() -> span::Span {
    tracing::error_span!(
        "request",
        memory.allocated_bytes = tracing::field::Empty,
        memory.outcome = tracing::field::Empty,
        other = tracing::field::Empty,
    )
}

#[tokio::test]
async fn a_request_has_one_event_with_its_figures_in_its_span() {
    let recorder = Recorder::default();
    let subscriber = tracing_subscriber::registry().with(recorder.clone());
    let _here = tracing::subscriber::set_default(subscriber);

    let (sender, reports) = std::sync::mpsc::channel();
    let layer = MemoryLayer::builder()
        .list_requests()
        .log_requests(
            RequestLog::new()
                .bytes_above(50_000, Level::WARN)
                .not_completed(Level::INFO),
        )
        .observe(move |report: &ScopeReport| _ = sender.send(report.clone()))
        .build()
        .unwrap();
    let handle = layer.handle();
    let mut service = layer.layer(service_fn(|request: Request<usize>| async move {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        scope.set_route("/a \"b\"\n{id}");
        scope.arena().alloc([0_u8; 32]);
        drop(black_box(vec![1_u8; *request.body()]));
        scope.spawn(async {}).await.unwrap();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    }));

    for bytes in [1000, 60_000] {
        let request = Request::put("/a?secret=1")
            .header("authorization", "hidden")
            .body(bytes)
            .unwrap();
        let called = request_span().in_scope(|| service.call(request));
        // Outside of the span.
        let response = called.await.unwrap();
        response.into_body().collect().await.unwrap();
        handle.flush_observers();
        let report = reports.try_recv().unwrap();
        let usage = report.usage.unwrap();

        let mut seen = recorder.0.lock().unwrap();
        let [(level, span, fields)] = &seen.events[..] else {
            panic!("one event, not {}", seen.events.len());
        };
        let expected = if bytes > 50_000 {
            Level::WARN
        } else {
            Level::DEBUG
        };
        assert_eq!((*level, span.as_deref()), (expected, Some("request")));
        let mut fields = fields.clone();
        let mut take = |name| fields.remove(name).unwrap_or_default();
        assert!(take("memory.head_seconds").parse::<f64>().unwrap() >= 0.0);
        let seconds = take("memory.duration_seconds").parse::<f64>().unwrap();
        assert!((seconds - report.total_time.as_secs_f64()).abs() < 1e-9);
        let expected = [
            ("http.request.method", "PUT".into()),
            ("http.response.status_code", "200".into()),
            ("http.route", "/a \"b\"\n{id}".into()),
            ("memory.allocated_bytes", usage.bytes_allocated.to_string()),
            ("memory.allocations", usage.allocations.to_string()),
            ("memory.arena_bytes", "32".into()),
            ("memory.outcome", "completed".into()),
            ("memory.peak_bytes", usage.peak_bytes.unwrap().to_string()),
            ("memory.request_id", report.id.unwrap().to_string()),
            ("memory.tasks", "1".into()),
            ("message", "request closed".into()),
        ];
        assert_eq!(fields, Fields::from(expected));
        // Only what the span declares.
        let recorded = [
            ("memory.allocated_bytes", usage.bytes_allocated.to_string()),
            ("memory.outcome", "completed".into()),
        ];
        assert_eq!(seen.spans, Fields::from(recorded));
        *seen = Seen::default();
    }

    // A request that nobody waits for, outside of any span, and a subscriber that panics.
    recorder.0.lock().unwrap().panics = true;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    drop(service.call(Request::new(1)));
    std::panic::set_hook(hook);
    let seen = recorder.0.lock().unwrap();
    let (level, span, fields) = &seen.events[0];
    assert_eq!((*level, span), (Level::INFO, &None));
    assert_eq!(fields["memory.outcome"], "abandoned");
    assert!(!fields.contains_key("http.response.status_code"));
    assert_eq!(handle.snapshot().observer_panics, 1);
}

/// A figure of the request must not depend on what a subscriber keeps.
#[tokio::test]
async fn what_a_layer_logs_is_in_no_figure() {
    let subscriber = tracing_subscriber::registry().with(Recorder::default());
    let _here = tracing::subscriber::set_default(subscriber);
    let layers = [
        MemoryLayer::builder().build().unwrap(),
        MemoryLayer::builder()
            .log_requests(RequestLog::default())
            .build()
            .unwrap(),
    ];
    let mut bytes = Vec::new();
    for layer in &layers {
        let mut service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        }));
        for _ in 0..20 {
            let called = request_span().in_scope(|| service.call(Request::new(())));
            drop(called.await.unwrap());
        }
        bytes.push(
            layer.handle().snapshot().routes[0]
                .bytes
                .as_ref()
                .unwrap()
                .percentile(0.5),
        );
    }
    assert_eq!(bytes[0], bytes[1]);
}
