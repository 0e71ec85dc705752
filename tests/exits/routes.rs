//! Names of routes, observers, and the headers with a request's figures.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    ArenaPool, ConfigError, Expose, MemoryLayer, Outcome, ScopeReport, middleware::ResponseBody,
};

use super::support::{Refused, answering, get, poll_once, scope_of, watched};

type Plain = Response<ResponseBody<Full<Bytes>>>;

/// A service that takes its route from the request's path.
fn naming()
-> impl Service<Request<Empty<Bytes>>, Response = Response<Full<Bytes>>, Error = Refused, Future: Unpin>
+ Clone {
    service_fn(|request: Request<Empty<Bytes>>| {
        scope_of(&request).set_route(request.uri().path());
        std::future::ready(Ok(Response::new(Full::default())))
    })
}

/// Answered at once.
fn at_once<S>(service: &S, request: Request<Empty<Bytes>>) -> Plain
where
    S: Service<Request<Empty<Bytes>>, Response = Plain, Error: std::fmt::Debug> + Clone,
{
    let response = service.clone().oneshot(request).now_or_never();
    response.expect("at once").unwrap()
}

#[test]
fn set_route_moves_what_is_in_flight() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let mut service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let scope = scope_of(&request);
        let mut polls = 0;
        std::future::poll_fn(move |_| {
            polls += 1;
            scope.set_route(["first", "second", "second"][polls - 1]);
            std::task::Poll::<Result<Response<Full<Bytes>>, Refused>>::Pending
        })
    }));
    let in_flight = || {
        let routes = watch.handle.snapshot().routes;
        let routes = routes
            .iter()
            .map(|r| (r.route.to_string(), r.in_flight, r.requests));
        routes.collect::<Vec<_>>()
    };
    let mut future = Box::pin(service.call(get("/")));
    assert_eq!(in_flight(), [("{unmatched}".into(), 1, 1)]);
    for expected in ["first", "second", "second"] {
        assert!(poll_once(&mut future).is_pending());
        assert_eq!(in_flight(), [(expected.into(), 1, 1)]);
    }
    drop(future);
    assert_eq!(in_flight(), [("second".into(), 0, 1)]);
    let report = watch.report_now();
    assert_eq!(report.route.as_str(), "second");
    assert_eq!(report.outcome, Outcome::Abandoned);
}

#[test]
fn set_route_after_the_end_changes_nothing() {
    let kept = Arc::new(std::sync::Mutex::new(None));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(service_fn({
        let kept = Arc::clone(&kept);
        move |request: Request<Empty<Bytes>>| {
            *kept.lock().unwrap() = Some(scope_of(&request));
            std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
        }
    }));
    drop(at_once(&service, get("/")));
    let scope = kept.lock().unwrap().take().unwrap();
    scope.set_route("late");
    assert_eq!(scope.route().as_str(), "{unmatched}");
    drop(scope);
    assert_eq!(watch.report_now().route.as_str(), "{unmatched}");
    assert_eq!(watch.handle.snapshot().routes.len(), 1);
}

#[test]
fn methods_that_clients_make_up_share_one_row() {
    let layer = MemoryLayer::new();
    let service = layer.layer(naming());
    for n in 0..1000 {
        let method = http::Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
        let request = Request::builder().method(method).uri("/");
        drop(at_once(&service, request.body(Empty::new()).unwrap()));
    }
    let routes = layer.handle().snapshot().routes;
    let rows: Vec<_> = routes
        .iter()
        .map(|row| (row.method, row.requests))
        .collect();
    assert_eq!(rows, [("other", 1000)]);
}

#[test]
fn a_hundred_thousand_labels_are_bounded() {
    let layer = MemoryLayer::new();
    let handle = layer.handle();
    let service = layer.layer(naming());
    for n in 0..100_000 {
        drop(at_once(&service, get(&format!("/{n}"))));
    }
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.routes.len(), 513, "512 routes and `{{other}}`");
    let other = snapshot
        .routes
        .iter()
        .find(|r| r.route.as_str() == "{other}")
        .unwrap();
    assert_eq!(other.requests, 100_000 - 512);
    assert_eq!(other.outcomes.get(Outcome::Completed), 100_000 - 512);
    assert!(snapshot.routes.iter().all(|r| r.in_flight == 0));
    let requests: u64 = snapshot.routes.iter().map(|r| r.requests).sum();
    assert_eq!(requests, 100_000);
}

#[test]
fn a_label_that_is_no_header_value_has_no_header_and_counts_all_the_same() {
    for label in ["two\nlines", "\r\nx-injected: yes", "nul\0", "\u{7f}"] {
        let (layer, watch) = watched(MemoryLayer::builder());
        let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
            scope_of(&request).set_route(label);
            std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
        }));
        let response = at_once(&service, get("/"));
        let headers = response.headers();
        assert!(!headers.contains_key("x-alloc-route") && !headers.contains_key("x-injected"));
        assert_eq!(headers["x-arena-bytes"], "0");
        assert_eq!(headers["x-arena-source"], "unused");
        drop(response);
        assert_eq!(watch.report_now().route.as_str(), label);
    }
}

#[test]
fn an_observer_that_panics_is_counted_and_the_others_are_told() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = || {
        let told = Arc::clone(&told);
        move |_: &ScopeReport| {
            told.fetch_add(1, Ordering::Relaxed);
        }
    };
    let layer = MemoryLayer::builder()
        .observe(count())
        .observe(|_: &ScopeReport| panic!("the observer panics"))
        .observe(count());
    let (layer, watch) = watched(layer);
    let service = layer.layer(answering(Full::<Bytes>::default()));
    drop(at_once(&service, get("/")));
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    assert_eq!(told.load(Ordering::Relaxed), 2);
    assert_eq!(watch.handle.snapshot().observer_panics, 1);
}

#[test]
fn an_observer_may_ask_for_a_snapshot_and_send_a_request() {
    let snapshots = Arc::new(AtomicUsize::new(0));
    let inner = MemoryLayer::new();
    let inner_handle = inner.handle();
    let inner_service = inner.layer(answering(Full::<Bytes>::default()));
    let (layer, watch) = watched(MemoryLayer::builder().observe({
        let snapshots = Arc::clone(&snapshots);
        let inner_handle = inner_handle.clone();
        move |_: &ScopeReport| {
            drop(at_once(&inner_service, get("/")));
            snapshots.fetch_add(inner_handle.snapshot().routes.len(), Ordering::Relaxed);
        }
    }));
    let service = layer.layer(answering(Full::<Bytes>::default()));
    drop(at_once(&service, get("/")));
    assert_eq!(watch.outcome_now(), Outcome::Completed);
    assert_eq!(snapshots.load(Ordering::Relaxed), 1);
    assert_eq!(inner_handle.snapshot().routes[0].requests, 1);
}

#[test]
fn headers_tell_the_route_and_the_arena_but_no_heap_without_the_allocator() {
    let layer = MemoryLayer::builder().route("hello").build().unwrap();
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        if request.uri().path() == "/arena" {
            scope_of(&request).arena().alloc_str("12345678");
        }
        std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
    }));
    for (path, bytes, source) in [
        ("/", "0", "unused"),
        ("/arena", "8", "fresh"),
        ("/arena", "8", "pool"),
        ("/", "0", "unused"),
    ] {
        let response = at_once(&service, get(path));
        let headers = response.headers();
        assert_eq!(headers["x-alloc-route"], "hello");
        assert_eq!(headers["x-arena-bytes"], bytes);
        assert_eq!(headers["x-arena-source"], source);
        assert_eq!(headers.len(), 3, "{headers:?}");
    }
}

#[test]
fn headers_of_the_same_names_from_inside_are_replaced() {
    let service =
        MemoryLayer::builder()
            .build()
            .unwrap()
            .layer(service_fn(|_: Request<Empty<Bytes>>| {
                let response = Response::builder()
                    .header("x-arena-bytes", "1")
                    .header("x-arena-bytes", "2")
                    .header("x-kept", "kept");
                std::future::ready(Ok::<_, Refused>(
                    response.body(Full::<Bytes>::default()).unwrap(),
                ))
            }));
    let response = at_once(&service, get("/"));
    let bytes: Vec<_> = response.headers().get_all("x-arena-bytes").iter().collect();
    assert_eq!(bytes, ["0"]);
    assert_eq!(response.headers()["x-kept"], "kept");
}

#[test]
fn headers_are_shown_to_whom_the_layer_exposes_them() {
    let shown = |expose: Expose, request: Request<Empty<Bytes>>| {
        let service = MemoryLayer::builder()
            .expose(expose)
            .build()
            .unwrap()
            .layer(answering(Full::<Bytes>::default()));
        match at_once(&service, request).headers().len() {
            0 => false,
            3 => true,
            other => panic!("{other} headers"),
        }
    };
    let debugging = || {
        let request = Request::get("/path").header("x-debug", "1");
        request.body(Empty::new()).unwrap()
    };
    assert!(shown(Expose::Always, get("/")));
    assert!(!shown(Expose::Never, get("/")));
    let by_header = || Expose::when(|request| request.headers.contains_key("x-debug"));
    assert!(shown(by_header(), debugging()));
    assert!(!shown(by_header(), get("/path")));
    let by_path = || Expose::when(|request| request.uri.path() == "/path");
    assert!(shown(by_path(), debugging()));
    assert!(!shown(by_path(), get("/")));
}

#[test]
fn asking_whom_to_expose_to_leaves_the_request_as_it_was() {
    let layer = MemoryLayer::builder()
        .expose(Expose::when(|_| true))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        assert_eq!(request.extensions().get::<u8>(), Some(&7));
        assert_eq!(request.headers()["x-debug"], "1");
        assert_eq!(request.uri(), "/path");
        assert_eq!(request.method(), "PUT");
        std::future::ready(Ok::<_, Refused>(Response::new(Full::<Bytes>::default())))
    }));
    let request = Request::put("/path").header("x-debug", "1").extension(7_u8);
    let response = at_once(&service, request.body(Empty::new()).unwrap());
    assert_eq!(response.status(), 200);
}

#[test]
fn a_route_label_that_no_header_can_carry_is_refused_with_the_label() {
    let long = "x".repeat(257);
    for label in ["", "two\nlines", long.as_str()] {
        let error = MemoryLayer::builder().route(label).build().unwrap_err();
        let text = error.to_string();
        let ConfigError::RouteLabel {
            label: found,
            limit: 256,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(found, label);
        assert!(text.contains(&label.len().to_string()) && text.contains("256"));
    }
    assert!(
        MemoryLayer::builder()
            .route("x".repeat(256))
            .build()
            .is_ok()
    );
}

#[test]
fn a_number_of_routes_out_of_bounds_is_refused_with_the_numbers() {
    for asked in [0, 65_537, usize::MAX] {
        let error = MemoryLayer::builder()
            .max_routes(asked)
            .build()
            .unwrap_err();
        let ConfigError::MaxRoutes {
            asked: found,
            limit: 65_536,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(found, asked);
    }
    assert!(MemoryLayer::builder().max_routes(1).build().is_ok());
}

#[test]
fn a_handle_and_a_clone_are_of_the_layer_that_was_built() {
    let pool = ArenaPool::builder().initial_bytes(64).build().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let layer = MemoryLayer::builder()
        .pool(pool.clone())
        .observe({
            let seen = Arc::clone(&seen);
            move |_: &ScopeReport| _ = seen.fetch_add(1, Ordering::Relaxed)
        })
        .build()
        .unwrap();
    let handle = layer.handle();
    for layer in [layer.clone(), layer] {
        let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
            scope_of(&request).arena().alloc(1_u8);
            Ok::<_, Refused>(Response::new(Full::<Bytes>::default()))
        }));
        drop(at_once(&service, get("/")));
    }
    handle.flush_observers();
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.routes[0].requests, 2);
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    assert_eq!(snapshot.pool.misses, pool.stats().misses);
    assert!(snapshot.pool.misses > 0);
}

#[test]
fn headers_are_shown_by_default_in_debug_builds_only() {
    let service = MemoryLayer::new().layer(answering(Full::<Bytes>::default()));
    let response = at_once(&service, get("/"));
    let shown = response.headers().contains_key("x-arena-source");
    assert_eq!(shown, cfg!(debug_assertions));
}

#[test]
fn a_snapshot_is_displayed_as_a_table() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(naming());
    for path in ["/a", "/a", "/a-longer-route"] {
        drop(at_once(&service, get(path)));
    }
    let head = "requests  in flight  open bytes  mean bytes  max bytes  max peak  mean count  mean arena  learned arena";
    let cells = "        0           -           -          -         -           -         0.0              -";
    assert_eq!(
        watch.handle.snapshot().to_string(),
        format!(
            "method  route            {head}  statuses  outcomes\n\
             GET     /a                      2  {cells}  2xx 2     completed 2\n\
             GET     /a-longer-route         1  {cells}  2xx 1     completed 1\n\
             in flight 0, tasks 0, tokens 0, arenas rented 0 (0 bytes), buffers 0 (0 bytes), \
             pooled 0 (0 bytes)"
        )
    );
}
