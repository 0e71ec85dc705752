//! The list of open requests, and the largest and slowest ones, through the middleware.

use std::{convert::Infallible, hint::black_box, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_memory::{
    MemoryHandle, MemoryLayer, Outcome, RequestScope, TrackingAllocator, observe::LiveRequest,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

type Answer = Result<Response<Full<Bytes>>, Infallible>;

const SECOND: Duration = Duration::from_secs(1);

fn listing() -> MemoryLayer {
    MemoryLayer::builder()
        .timeout(30 * SECOND)
        .list_requests()
        .build()
        .unwrap()
}

fn open(handle: &MemoryHandle) -> Vec<LiveRequest> {
    handle.requests().expect("the layer lists requests")
}

fn empty() -> Response<Full<Bytes>> {
    Response::new(Full::default())
}

fn scope_of<B>(request: &Request<B>) -> RequestScope {
    request.extensions().get::<RequestScope>().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn an_open_request_is_shown_with_what_it_has_used_so_far() {
    let layer = listing();
    let handle = layer.handle();
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let scope = scope_of(&request);
        scope.set_route("/items/{id}");
        scope.arena().alloc([0_u8; 64]);
        scope.annotate("user", 7);
        let _task = scope.spawn(std::future::pending::<()>());
        drop(black_box(vec![1_u8; 5000]));
        tokio::time::sleep(20 * SECOND).await;
        Answer::Ok(empty())
    }));
    let request = Request::post("/items/1?secret").body(()).unwrap();
    let running = tokio::spawn(service.oneshot(request));
    tokio::time::sleep(10 * SECOND).await;

    let [request] = &open(&handle)[..] else {
        panic!("one request is open");
    };
    assert_eq!(
        (request.method, request.route.as_str()),
        ("POST", "/items/{id}")
    );
    assert_eq!(
        (request.age, request.deadline_left),
        (10 * SECOND, Some(20 * SECOND))
    );
    assert_eq!((request.status, request.cancelled), (None, None));
    assert!(request.bytes.unwrap() >= 5000 && request.allocations.unwrap() >= 1);
    assert_eq!((request.arena_bytes, request.tasks), (64, 1));
    assert_eq!(request.annotations, [("user", "7".into())]);
    assert!(!format!("{request:?}").contains("secret"));
    #[cfg(feature = "serde")]
    {
        let json = serde_json::to_value(request).unwrap();
        assert_eq!(
            (&json["id"], &json["tasks"]),
            (&request.id.into(), &1.into())
        );
        assert_eq!(json["deadline_left"], 20_000_000_000_u64);
        assert_eq!(json["annotations"]["user"], "7");
    }

    let response = running.await.unwrap().unwrap();
    let [request] = &open(&handle)[..] else {
        panic!("until its body ends");
    };
    assert_eq!((request.status, request.deadline_left), (Some(200), None));
    drop(response);
    // The scope is open until its task has ended.
    let [request] = &open(&handle)[..] else {
        panic!("its task is alive");
    };
    assert_eq!(
        (request.tasks, request.cancelled),
        (1, Some(Outcome::Completed))
    );
    tokio::time::sleep(10 * SECOND).await;
    assert!(open(&handle).is_empty());
}

#[tokio::test]
async fn a_request_has_one_number_wherever_it_is_shown() {
    let (sender, reports) = std::sync::mpsc::channel();
    let layer = MemoryLayer::builder()
        .list_requests()
        .observe(move |report: &tower_memory::ScopeReport| _ = sender.send(report.id))
        .build()
        .unwrap();
    let handle = layer.handle();
    let mut service = layer.layer(service_fn({
        let handle = handle.clone();
        move |request: Request<()>| {
            let (scope, handle) = (scope_of(&request), handle.clone());
            async move {
                let open = open(&handle);
                assert!(open.iter().any(|open| open.id == scope.id()));
                Answer::Ok(Response::new(Full::from(scope.id().to_string())))
            }
        }
    }));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let response = service.ready().await.unwrap().call(Request::new(()));
        let id = response.await.unwrap().into_body().collect().await.unwrap();
        ids.push(String::from_utf8(id.to_bytes().to_vec()).unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    handle.flush_observers();
    let ids: Vec<Option<u64>> = ids.iter().map(|id| id.parse().ok()).collect();
    assert_eq!(reports.try_iter().collect::<Vec<_>>(), ids);
    let [route] = &handle.extremes().unwrap()[..] else {
        panic!("one route");
    };
    let mut shown: Vec<_> = route.slowest.iter().map(|past| past.report.id).collect();
    shown.sort_unstable();
    assert_eq!(shown, ids);
}

#[tokio::test]
async fn a_layer_that_lists_nothing_says_so_and_numbers_nothing() {
    let (sender, reports) = std::sync::mpsc::channel();
    let layer = MemoryLayer::builder()
        .observe(move |report: &tower_memory::ScopeReport| _ = sender.send(report.id))
        .build()
        .unwrap();
    let handle = layer.handle();
    let service = layer.layer(service_fn(|_: Request<()>| async { Answer::Ok(empty()) }));
    drop(service.oneshot(Request::new(())).await.unwrap());
    handle.flush_observers();
    assert_eq!((handle.requests(), handle.extremes()), (None, None));
    assert_eq!(reports.try_recv().unwrap(), None);
}

#[tokio::test]
async fn the_largest_and_the_slowest_are_found_among_many() {
    let layer = listing();
    let mut service = layer.layer(service_fn(|request: Request<usize>| async move {
        drop(black_box(vec![1_u8; *request.body()]));
        scope_of(&request).annotate("size", request.body());
        Answer::Ok(empty())
    }));
    for n in 0..1000 {
        let size = 100 + 17 * (n * 389 % 1000);
        let answer = service.ready().await.unwrap().call(Request::new(size));
        drop(answer.await.unwrap());
    }
    let [route] = &layer.handle().extremes().unwrap()[..] else {
        panic!("one route");
    };
    let sizes = route
        .largest
        .iter()
        .map(|past| past.report.annotations[0].1.as_str());
    let expected: Vec<_> = (992..1000)
        .rev()
        .map(|n| (100 + 17 * n).to_string())
        .collect();
    assert_eq!(sizes.collect::<Vec<_>>(), expected);
    #[cfg(feature = "serde")]
    {
        let json = serde_json::to_value(layer.handle().extremes()).unwrap();
        let report = &json[0]["largest"][0]["report"];
        assert_eq!(report["annotations"]["size"], "17083");
        assert!(report["bytes"].as_u64().unwrap() >= 17_083);
        assert_eq!(
            (&report["outcome"], &json[0]["route"]),
            (&"completed".into(), &"{unmatched}".into())
        );
    }
    let times = route.slowest.iter().map(|past| past.report.total_time);
    let times: Vec<_> = times.collect();
    assert!(times.len() == 8 && times.is_sorted_by(|one, next| one >= next));
    assert_eq!(
        times[0],
        layer.handle().snapshot().routes[0]
            .total_time
            .as_ref()
            .unwrap()
            .max
    );
}

#[tokio::test]
async fn ten_thousand_open_requests_of_512_routes_are_listed_while_others_come_and_go() {
    type Endless = futures_util::stream::Pending<Result<http_body::Frame<Bytes>, Infallible>>;
    let layer = MemoryLayer::builder().list_requests().build().unwrap();
    let handle = layer.handle();
    let mut service = layer.layer(service_fn(|request: Request<usize>| async move {
        scope_of(&request).set_route(&format!("/{}", request.body() % 512));
        let body: StreamBody<Endless> = StreamBody::new(futures_util::stream::pending());
        Ok::<_, Infallible>(Response::new(body))
    }));
    let mut kept = Vec::new();
    for n in 0..10_000 {
        let answer = service.ready().await.unwrap().call(Request::new(n));
        kept.push(answer.await.unwrap());
    }
    let others = {
        let mut service = service.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                for n in 0..5000 {
                    let answer = service.ready().await.unwrap().call(Request::new(n));
                    drop(answer.await.unwrap());
                }
            });
        })
    };
    while !others.is_finished() {
        let listed = open(&handle).len();
        assert!((10_000..=10_001).contains(&listed), "{listed}");
        assert!(handle.snapshot().in_flight >= 10_000);
    }
    others.join().unwrap();
    let listed = open(&handle);
    assert_eq!(listed.len(), 10_000);
    let mut routes: Vec<_> = listed.iter().map(|open| open.route.as_str()).collect();
    routes.sort_unstable();
    routes.dedup();
    assert_eq!(routes.len(), 512);
    assert!(listed.is_sorted_by(|one, next| one.age >= next.age));
    drop(kept);
    assert!(open(&handle).is_empty());
}

/// The list refers to a request; its end takes the same way as that of one that is not listed.
#[tokio::test]
async fn a_listed_request_ends_with_the_outcome_of_one_that_is_not() {
    for lists in [false, true] {
        let mut layer = MemoryLayer::builder();
        if lists {
            layer = layer.list_requests();
        }
        let layer = layer.build().unwrap();
        let service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let response = service.clone().oneshot(Request::new(())).await.unwrap();
        drop(response);
        drop(service.clone().call(Request::new(())));
        let response = layer.layer(service_fn(|request: Request<()>| async move {
            scope_of(&request).cancel();
            Answer::Ok(empty())
        }));
        drop(response.oneshot(Request::new(())).await.unwrap());
        let snapshot = layer.handle().snapshot();
        let outcomes = &snapshot.routes[0].outcomes;
        for outcome in [Outcome::Completed, Outcome::Abandoned, Outcome::Cancelled] {
            assert_eq!(outcomes.get(outcome), 1, "{outcome} {lists}");
        }
        assert_eq!(snapshot.in_flight, 0);
    }
}

#[tokio::test]
async fn a_request_whose_handle_is_kept_leaves_the_list_at_its_end_and_its_arena_with_the_handle() {
    for cancels in [false, true] {
        let layer = listing();
        let handle = layer.handle();
        let kept = std::sync::Mutex::new(None);
        let service = layer.layer(service_fn(|request: Request<()>| {
            let scope = scope_of(&request);
            scope.arena().alloc(7_u64);
            if cancels {
                scope.cancel();
            }
            *kept.lock().unwrap() = Some(scope);
            std::future::ready(Answer::Ok(empty()))
        }));
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(open(&handle).len(), 1);
        drop(response);
        assert!(open(&handle).is_empty());
        let scope = kept.lock().unwrap().take().unwrap();
        assert_eq!((scope.is_ended(), handle.pool().stats().rented), (true, 1));
        drop(scope);
        assert_eq!(handle.pool().stats().rented, 0, "the list refers to it");
    }
}
