//! Deadlines that requests bring with them: all sources against each other. Time is paused.

use std::{
    slice::from_ref,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    MemoryLayer, Outcome, RoutePolicy, cancel::DeadlineSource, deadline_header::DeadlineHeader,
    middleware::MemoryLayerBuilder,
};

use super::support::{
    Refused, Steps, answering, get, never_answering, scope_of, use_everything, watched,
};

const SECOND: Duration = Duration::from_secs(1);

/// Whoever can set a deadline before the handler runs on.
const SOURCES: [DeadlineSource; 6] = [
    DeadlineSource::EnvoyExpectedRqTimeout,
    DeadlineSource::GrpcTimeout,
    DeadlineSource::Handler,
    DeadlineSource::Layer,
    DeadlineSource::Policy,
    DeadlineSource::RequestTimeout,
];

fn header_of(source: DeadlineSource) -> Option<DeadlineHeader> {
    DeadlineHeader::ALL
        .iter()
        .copied()
        .find(|header| header.deadline_source() == source)
}

fn trusting_all() -> MemoryLayerBuilder {
    DeadlineHeader::ALL
        .iter()
        .copied()
        .fold(MemoryLayer::builder(), MemoryLayerBuilder::trust_deadline)
        .trust_request_start()
}

/// When a request with these deadlines ends, and whose deadline that was.
async fn ended_by(
    mut layer: MemoryLayerBuilder,
    deadlines: &[(DeadlineSource, Duration)],
) -> Option<(DeadlineSource, Duration)> {
    let mut request = get("/");
    let mut policy = RoutePolicy::new();
    let mut handler = None;
    for &(source, after) in deadlines {
        match source {
            DeadlineSource::Layer => layer = layer.timeout(after),
            DeadlineSource::Policy => policy = policy.timeout(after),
            DeadlineSource::Handler => handler = Some(after),
            _ => {
                let header = header_of(source).unwrap();
                let value = header.value(after).unwrap();
                request.headers_mut().insert(header.name(), value);
            }
        }
    }
    let (layer, watch) = watched(layer);
    let service = layer.layer(policy.layer(service_fn(
        move |request: Request<Empty<Bytes>>| async move {
            let scope = scope_of(&request);
            use_everything(&scope);
            if let Some(handler) = handler {
                scope.shorten_deadline(handler);
            }
            // Longer than any deadline here.
            tokio::time::sleep(100 * SECOND).await;
            Ok::<_, Refused>(Response::new(Full::new(Bytes::new())))
        },
    )));
    let start = Instant::now();
    let response = service.oneshot(request).await.unwrap();
    let after = start.elapsed();
    let status = response.status();
    drop(response);
    let report = watch.report().await;
    if let Some(source) = report.deadline_source {
        assert_eq!(status, 504);
        // Timers tick in milliseconds.
        let millis = after.as_millis() as u64 / 10 * 10;
        Some((source, Duration::from_millis(millis)))
    } else {
        assert_eq!((status.as_u16(), report.outcome), (200, Outcome::Completed));
        None
    }
}

#[tokio::test(start_paused = true)]
async fn of_each_pair_of_sources_the_shorter_holds_in_both_orders() {
    let mut pairs = 0;
    for shorter in SOURCES {
        for longer in SOURCES {
            if shorter == longer {
                continue;
            }
            let (short, long) = ((shorter, SECOND), (longer, 2 * SECOND));
            for both in [[short, long], [long, short]] {
                let ended = ended_by(trusting_all(), &both).await;
                assert_eq!(ended, Some(short), "{both:?}");
                pairs += 1;
            }
        }
    }
    assert_eq!(pairs, 60);
}

#[tokio::test(start_paused = true)]
async fn a_header_counts_only_if_that_very_header_is_trusted() {
    for &header in DeadlineHeader::ALL {
        let own = (header.deadline_source(), SECOND);
        let layer = (DeadlineSource::Layer, 2 * SECOND);
        let others = DeadlineHeader::ALL
            .iter()
            .copied()
            .filter(|other| *other != header)
            .fold(MemoryLayer::builder(), MemoryLayerBuilder::trust_deadline);
        for (trusting, expected) in [
            (MemoryLayer::builder(), layer),
            (others, layer),
            (MemoryLayer::builder().trust_deadline(header), own),
            (trusting_all(), own),
        ] {
            assert_eq!(ended_by(trusting, &[own, layer]).await, Some(expected));
        }
        assert_eq!(ended_by(MemoryLayer::builder(), &[own]).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_never_makes_a_deadline_later() {
    for &header in DeadlineHeader::ALL {
        for huge in ["99999999", "99999998"] {
            let value = match header {
                DeadlineHeader::GrpcTimeout => format!("{huge}H"),
                _ => format!("{huge}999999999"),
            };
            let (layer, watch) = watched(trusting_all().timeout(SECOND));
            let mut request = get("/");
            request
                .headers_mut()
                .insert(header.name(), value.parse().unwrap());
            let response = layer.layer(never_answering()).oneshot(request).await;
            drop(response.unwrap());
            let report = watch.report_now();
            let source = DeadlineSource::Layer;
            assert_eq!(report.deadline_source, Some(source), "{value}");
            assert_eq!(watch.handle.snapshot().unparsable_deadlines, 0);
        }
    }
}

/// What came of a request with these headers, in a layer that trusts all and has a timeout of 2 s.
struct Seen {
    status: u16,
    ran: bool,
    after: Duration,
    deadline_source: Option<DeadlineSource>,
    unparsable: u64,
}

async fn seen(layer: MemoryLayerBuilder, headers: &[(HeaderName, &[u8])]) -> Seen {
    let mut request = get("/");
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().append(name.clone(), value);
    }
    let (layer, watch) = watched(layer);
    let (tell, ran) = std::sync::mpsc::channel();
    let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        tell.send(()).unwrap();
        let scope = scope_of(&request);
        async move {
            use_everything(&scope);
            std::future::pending::<Result<Response<Steps>, Refused>>().await
        }
    }));
    let start = Instant::now();
    let response = service.oneshot(request).await.unwrap();
    let (status, after) = (response.status().as_u16(), start.elapsed());
    drop(response);
    Seen {
        status,
        ran: ran.try_recv().is_ok(),
        after,
        deadline_source: watch.report().await.deadline_source,
        unparsable: watch.handle.snapshot().unparsable_deadlines,
    }
}

fn about(after: Duration, expected: Duration) -> bool {
    (expected..expected + Duration::from_millis(3)).contains(&after)
}

#[tokio::test(start_paused = true)]
async fn malformed_values_are_ignored_and_counted() {
    let cases: [(DeadlineHeader, &[&[u8]]); 3] = [
        (
            DeadlineHeader::GrpcTimeout,
            &[
                b"",
                b"1",
                b"S",
                b"123456789n",
                b"1s",
                b"-1S",
                b"1 S",
                b"1.5S",
                b"\xff\xfe",
            ],
        ),
        (
            DeadlineHeader::RequestTimeout,
            &[
                b"",
                b"-5",
                b"+5",
                b"5ms",
                b"0x10",
                b"1e3",
                b"18446744073709551616",
                b"\xff",
            ],
        ),
        (
            DeadlineHeader::EnvoyExpectedRqTimeout,
            &[b"", b"none", b"1,2", b"1.5"],
        ),
    ];
    for (header, values) in cases {
        for value in values {
            let layer = trusting_all().timeout(2 * SECOND);
            let seen = seen(layer, &[(header.name(), value)]).await;
            assert!(seen.ran && about(seen.after, 2 * SECOND), "{value:?}");
            assert_eq!(seen.unparsable, 1, "{value:?}");
            let source = DeadlineSource::Layer;
            assert_eq!(seen.deadline_source, Some(source));
        }
    }
    let layer = MemoryLayer::builder().timeout(SECOND);
    let untrusted = seen(layer, &[(DeadlineHeader::GrpcTimeout.name(), b"nonsense")]).await;
    assert_eq!(untrusted.unparsable, 0, "not even looked at");
}

#[tokio::test(start_paused = true)]
async fn of_repeated_headers_the_shortest_readable_one_counts() {
    let name = || DeadlineHeader::RequestTimeout.name();
    for values in [
        [&b"1000"[..], b"nonsense", b"1500"],
        [b"1500", b"1000", b"nonsense"],
    ] {
        let headers = values.map(|value| (name(), value));
        let seen = seen(trusting_all().timeout(2 * SECOND), &headers).await;
        assert!(about(seen.after, SECOND), "{:?}", seen.after);
        assert_eq!(seen.unparsable, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_nothing_left_on_arrival_is_answered_and_not_run() {
    for (header, zero) in [
        (DeadlineHeader::GrpcTimeout, &b"0S"[..]),
        (DeadlineHeader::GrpcTimeout, b"00000000n"),
        (DeadlineHeader::RequestTimeout, b"0"),
        (DeadlineHeader::EnvoyExpectedRqTimeout, b"000"),
    ] {
        for layer in [trusting_all(), trusting_all().timeout(2 * SECOND)] {
            let seen = seen(layer, &[(header.name(), zero)]).await;
            assert_eq!(
                (seen.status, seen.ran),
                (504, false),
                "{header:?}: {zero:?}"
            );
            assert_eq!((seen.after, seen.unparsable), (Duration::ZERO, 0));
            let source = header.deadline_source();
            assert_eq!(seen.deadline_source, Some(source));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_expired_on_arrival_and_dropped_unpolled_gives_everything_back() {
    let (layer, watch) = watched(trusting_all());
    let mut request = get("/");
    let header = DeadlineHeader::GrpcTimeout;
    request
        .headers_mut()
        .insert(header.name(), HeaderValue::from_static("0S"));
    let mut service = layer.layer(never_answering());
    drop(tower::Service::call(&mut service, request));
    assert_eq!(watch.outcome_now(), Outcome::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_margin_is_taken_off_what_headers_say_and_nothing_else() {
    let margin = Duration::from_millis(100);
    let grpc = || DeadlineHeader::GrpcTimeout.name();
    let layer = || trusting_all().deadline_margin(margin);
    let header = seen(layer().timeout(2 * SECOND), &[(grpc(), b"1S")]).await;
    assert!(about(header.after, SECOND - margin), "{:?}", header.after);
    let timeout = seen(layer().timeout(SECOND), &[(grpc(), b"2S")]).await;
    assert!(about(timeout.after, SECOND), "{:?}", timeout.after);
    let none_left = seen(layer(), &[(grpc(), b"100m")]).await;
    assert_eq!((none_left.status, none_left.ran), (504, false));
}

/// `x-request-start`, a time before (or, negative, after) now.
fn started(ago: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("t={:.3}", now.as_secs_f64() - ago)
}

fn start_header() -> HeaderName {
    HeaderName::from_static("x-request-start")
}

#[tokio::test(start_paused = true)]
async fn time_in_a_queue_is_taken_off_headers_layers_and_policies() {
    // The start is told by the real clock, in milliseconds; it goes on while the test prepares.
    let told = std::time::Instant::now();
    let almost = |seen: &Seen, expected: Duration| {
        let slack = told.elapsed() + Duration::from_millis(5);
        assert!(
            seen.after <= expected + Duration::from_millis(2) && seen.after + slack >= expected,
            "{:?}, {slack:?}",
            seen.after
        );
    };
    let queued = started(1.5);
    let start = (start_header(), queued.as_bytes());
    let envoy = DeadlineHeader::EnvoyExpectedRqTimeout;
    let header = seen(trusting_all(), &[start.clone(), (envoy.name(), b"30000")]).await;
    almost(&header, Duration::from_millis(28_500));
    let layer = seen(trusting_all().timeout(20 * SECOND), from_ref(&start)).await;
    almost(&layer, Duration::from_millis(18_500));
    let source = DeadlineSource::Layer;
    assert_eq!(layer.deadline_source, Some(source));
    let expired = seen(trusting_all().timeout(SECOND), from_ref(&start)).await;
    assert_eq!((expired.status, expired.ran), (504, false));
    let untrusted = seen(MemoryLayer::builder().timeout(SECOND), from_ref(&start)).await;
    assert!(untrusted.ran && about(untrusted.after, SECOND));

    // A policy has its time taken off, too, and the handler behind it does not run.
    for (timeout, status) in [(SECOND, 504), (100 * SECOND, 200)] {
        let (layer, watch) = watched(trusting_all());
        let policy = RoutePolicy::new().timeout(timeout);
        let service = layer.layer(policy.layer(service_fn(async |_: Request<_>| {
            Ok::<_, Refused>(Response::new(Full::<Bytes>::default()))
        })));
        let mut request = get("/");
        let value = HeaderValue::from_str(&queued).unwrap();
        request.headers_mut().insert(start_header(), value);
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        drop(response);
        watch.report().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_in_the_future_counts_as_now() {
    for skew in [-0.5, -60.0, -86_400.0 * 365.0] {
        let value = started(skew);
        let start = (start_header(), value.as_bytes());
        let seen = seen(trusting_all().timeout(SECOND), &[start]).await;
        assert!(seen.ran && about(seen.after, SECOND), "{skew}");
        assert_eq!(seen.unparsable, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn starts_that_are_no_time_are_ignored_and_counted() {
    for value in [
        &b""[..],
        b"t=",
        b"0",
        b"yesterday",
        b"-1700000000",
        b"99999999999999999999",
        b"\xfe",
    ] {
        let start = (start_header(), value);
        let seen = seen(trusting_all().timeout(SECOND), &[start]).await;
        assert!(seen.ran && about(seen.after, SECOND), "{value:?}");
        assert_eq!(seen.unparsable, 1, "{value:?}");
    }
}

/// What the layer made of a proxy's clock that is this much behind (or, negative, ahead).
async fn clock(layer: MemoryLayerBuilder, behind: f64) -> (u16, bool, u64) {
    let (layer, watch) = watched(layer.trust_request_start());
    let service = layer.layer(answering(Full::<Bytes>::default()));
    let mut request = get("/");
    let value = HeaderValue::from_str(&started(behind)).unwrap();
    request.headers_mut().insert(start_header(), value);
    let response = service.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let told = String::from_utf8_lossy(&body).contains(" ms in a queue");
    watch.report().await;
    let snapshot = watch.handle.snapshot();
    assert_eq!(snapshot.unparsable_deadlines, 0);
    (status, told, snapshot.implausible_request_starts)
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_believed_within_bounds_and_else_counted() {
    let layer = || MemoryLayer::builder().timeout(5 * SECOND);
    let year = 365.0 * 86_400.0;
    // Whether the request was served, whether the answer names the queue, and whether it was counted.
    for (behind, expected) in [
        (0.0, (200, false, 0)),
        (2.0, (200, false, 0)),
        // As long as a queue may be. Then the answer says it.
        (6.0, (504, true, 0)),
        (59.0, (504, true, 0)),
        (62.0, (200, false, 1)),
        (3600.0, (200, false, 1)),
        (year, (200, false, 1)),
        (-0.5, (200, false, 0)),
        (-3.0, (200, false, 1)),
        (-year, (200, false, 1)),
    ] {
        assert_eq!(clock(layer(), behind).await, expected, "{behind} s behind");
    }
    for (max, expected) in [
        (5 * SECOND, (200, false, 1)),
        (7200 * SECOND, (504, true, 0)),
    ] {
        let behind = if max > 60 * SECOND { 3600.0 } else { 6.0 };
        let clock = clock(layer().max_queue_time(max), behind).await;
        assert_eq!(clock, expected, "at most {max:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_alone_is_no_deadline() {
    let (layer, watch) = watched(trusting_all());
    let mut request = get("/");
    let value = HeaderValue::from_str(&started(3600.0)).unwrap();
    request.headers_mut().insert(start_header(), value);
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        assert_eq!(scope_of(&request).deadline(), None);
        tokio::time::sleep(SECOND).await;
        Ok::<_, Refused>(Response::new(Full::<Bytes>::default()))
    }));
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(watch.outcome_now(), Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_inner_layer_may_trust_what_the_outer_one_does_not() {
    let (outer, watch) = watched(MemoryLayer::builder().timeout(5 * SECOND));
    for (value, after, ran) in [("2000", 2 * SECOND, true), ("500", SECOND, false)] {
        let (tell, told) = std::sync::mpsc::channel();
        let inner =
            trusting_all()
                .build()
                .unwrap()
                .layer(service_fn(move |_: Request<Empty<Bytes>>| {
                    tell.send(()).unwrap();
                    std::future::pending::<Result<Response<Steps>, Refused>>()
                }));
        // What is in between takes a second, which counts.
        let service = outer.layer(service_fn(move |request| {
            let inner = inner.clone();
            async move {
                tokio::time::sleep(SECOND).await;
                inner.oneshot(request).await
            }
        }));
        let mut request = get("/");
        let name = DeadlineHeader::RequestTimeout.name();
        request.headers_mut().insert(name, value.parse().unwrap());
        let start = Instant::now();
        assert_eq!(service.oneshot(request).await.unwrap().status(), 504);
        assert!(about(start.elapsed(), after), "{:?}", start.elapsed());
        assert_eq!(told.try_recv().is_ok(), ran);
    }
    let source = DeadlineSource::RequestTimeout;
    for report in watch.reports(2).await {
        assert_eq!(report.deadline_source, Some(source));
    }
}
