//! What axum adds: extractors, matched paths, and a layer inside or around the router.

use axum::{
    Router,
    body::Body,
    extract::Path,
    routing::{any, get},
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_memory::{
    Arena, MemoryLayer, Outcome, RequestScope,
    extract::{MissingMemoryLayer, RouteLabelLayer},
    scope::ArenaSource,
};

use super::support::watched;

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn text(router: Router, path: &str) -> (StatusCode, String) {
    let response = router.oneshot(request(path)).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn an_extractor_without_the_layer_is_refused_with_what_to_do() {
    let router = Router::new()
        .route("/scope", get(|_: RequestScope| async {}))
        .route("/arena", get(|_: Arena| async {}));
    for (path, extractor) in [("/scope", "`RequestScope`"), ("/arena", "`Arena`")] {
        let (status, message) = text(router.clone(), path).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        for part in [
            extractor,
            ".layer(MemoryLayer::new())",
            "after the routes",
            "routes added later are not covered",
            env!("CARGO_PKG_VERSION"),
            "cargo tree -d",
        ] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
    }
}

#[tokio::test]
async fn a_route_added_after_the_layer_is_not_covered() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let router = Router::new()
        .route("/before", get(|_: RequestScope| async {}))
        .layer(layer)
        .route("/after", get(|_: RequestScope| async {}));
    assert_eq!(text(router.clone(), "/after").await.0, 500);
    assert_eq!(text(router, "/before").await.0, 200);
    assert_eq!(watch.report_now().route.as_str(), "/before");
}

#[tokio::test]
async fn optional_extractors_are_none_without_the_layer() {
    let router = Router::new().route(
        "/",
        get(
            |scope: Option<RequestScope>, arena: Option<Arena>| async move {
                format!("{} {}", scope.is_some(), arena.is_some())
            },
        ),
    );
    assert_eq!(
        text(router.clone(), "/").await,
        (StatusCode::OK, "false false".into())
    );
    let covered = router.layer(MemoryLayer::new());
    assert_eq!(
        text(covered, "/").await,
        (StatusCode::OK, "true true".into())
    );
}

#[tokio::test]
async fn the_rejection_can_be_handled_by_the_application() {
    let router = Router::new().route(
        "/",
        get(
            |scope: Result<RequestScope, MissingMemoryLayer>| async move {
                let refused = scope.unwrap_err();
                assert_eq!(refused.body_text(), refused.to_string());
                refused.status().to_string()
            },
        ),
    );
    let (status, body) = text(router, "/").await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (200, "500 Internal Server Error")
    );
}

#[tokio::test]
async fn the_arena_extractor_gives_the_arena_of_the_scope() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let router = Router::new()
        .route(
            "/",
            get(|scope: RequestScope, arena: Arena| async move {
                arena.alloc_str("12345678");
                assert_eq!(scope.arena().allocated_bytes(), 8);
            }),
        )
        .layer(layer);
    assert_eq!(text(router, "/").await.0, 200);
    let report = watch.report_now();
    assert_eq!(
        (report.arena.bytes, report.arena.source),
        (8, ArenaSource::Fresh)
    );
}

#[tokio::test]
async fn a_layer_inside_the_router_names_the_route_by_its_pattern() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let nested = Router::new().route(
        "/items/{n}",
        get(|Path(n): Path<u32>| async move { n.to_string() }),
    );
    let router = Router::new().nest("/api", nested).layer(layer);
    for n in 0..3 {
        let response = router
            .clone()
            .oneshot(request(&format!("/api/items/{n}")))
            .await;
        assert_eq!(
            response.unwrap().headers()["x-alloc-route"],
            "/api/items/{n}"
        );
    }
    let reports = watch.reports(3).await;
    assert!(reports.iter().all(|r| r.route.as_str() == "/api/items/{n}"));
    assert_eq!(watch.handle.snapshot().routes.len(), 1);
}

#[tokio::test]
async fn a_layer_around_the_router_is_told_the_route_from_inside() {
    let router = Router::new()
        .route("/scope/{n}", get(|_: RequestScope| async {}))
        .route("/arena/{n}", get(|_: Arena| async {}))
        .route("/optional/{n}", get(|_: Option<RequestScope>| async {}))
        .route("/maybe/{n}", get(|_: Option<Arena>| async {}))
        .route(
            "/labelled/{n}",
            get(|| async {}).layer(RouteLabelLayer::new()),
        )
        .route("/silent/{n}", get(|| async {}));
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(router);
    let paths = [
        "/scope/1",
        "/arena/1",
        "/optional/1",
        "/maybe/1",
        "/labelled/1",
        "/silent/1",
        "/none",
    ];
    for path in paths {
        let response = service.clone().oneshot(request(path)).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let reports = watch.reports(paths.len()).await;
    let routes: Vec<_> = reports.iter().map(|report| report.route.as_str()).collect();
    assert_eq!(
        routes,
        [
            "/scope/{n}",
            "/arena/{n}",
            "/optional/{n}",
            "/maybe/{n}",
            "/labelled/{n}",
            "{unmatched}",
            "{unmatched}",
        ]
    );
}

#[tokio::test]
async fn a_route_layer_names_all_routes_before_it() {
    let router = Router::new()
        .route("/a/{n}", get(|| async {}))
        .route("/b/{n}", get(|| async {}))
        .route_layer(RouteLabelLayer::new());
    let (layer, watch) = watched(MemoryLayer::builder());
    let service = layer.layer(router);
    for path in ["/a/1", "/b/1", "/c/1"] {
        drop(service.clone().oneshot(request(path)).await.unwrap());
    }
    let reports = watch.reports(3).await;
    let routes: Vec<_> = reports.iter().map(|report| report.route.as_str()).collect();
    assert_eq!(routes, ["/a/{n}", "/b/{n}", "{unmatched}"]);
}

#[tokio::test]
async fn layers_around_and_inside_the_router_make_one_scope_named_by_the_router() {
    let (inside, inside_watch) = watched(MemoryLayer::builder());
    let (around, watch) = watched(MemoryLayer::builder());
    let router = Router::new()
        .route("/{n}", any(|_: RequestScope| async {}))
        .layer(inside);
    let response = around.layer(router).oneshot(request("/7")).await.unwrap();
    assert_eq!(
        response.headers().get_all("x-alloc-route").iter().count(),
        1
    );
    assert_eq!(response.headers()["x-alloc-route"], "/{n}");
    drop(response);
    let report = watch.report_now();
    assert_eq!(
        (report.route.as_str(), report.outcome),
        ("/{n}", Outcome::Completed)
    );
    assert!(inside_watch.reports(0).await.is_empty());
}

#[tokio::test]
async fn a_hundred_thousand_unmatched_paths_are_one_label() {
    let layer = MemoryLayer::new();
    let handle = layer.handle();
    let router: Router = Router::new()
        .route("/items/{n}", get(|| async {}))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(layer);
    let mut service = router.into_service::<Body>();
    for n in 0..100_000 {
        let response = (&mut service)
            .oneshot(request(&format!("/none/{n}")))
            .await
            .unwrap();
        assert_eq!(response.status(), 404);
    }
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.routes.len(), 1);
    assert_eq!(snapshot.routes[0].route.as_str(), "{unmatched}");
    assert_eq!(snapshot.routes[0].requests, 100_000);
    assert_eq!(snapshot.routes[0].outcomes.get(Outcome::Completed), 100_000);
    assert_eq!(snapshot.in_flight, 0);
}

#[tokio::test]
async fn an_unmatched_method_is_named_by_its_path() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let router = Router::new()
        .route("/items/{n}", get(|| async {}))
        .layer(layer);
    let post = Request::post("/items/7").body(Body::empty()).unwrap();
    assert_eq!(router.oneshot(post).await.unwrap().status(), 405);
    let report = watch.report_now();
    assert_eq!(
        (report.route.as_str(), report.outcome),
        ("/items/{n}", Outcome::Completed)
    );
}

#[tokio::test]
async fn a_layered_router_inside_a_router_is_served_and_named() {
    let (layer, watch) = watched(MemoryLayer::builder());
    let router = Router::new()
        .route("/items/{n}", get(|| async { "item" }))
        .layer(RouteLabelLayer::new());
    let app: Router = Router::new().fallback_service(layer.layer(router));
    let response = app.oneshot(request("/items/7")).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    let report = watch.report().await;
    // The body was not read.
    assert_eq!(
        (report.route.as_str(), report.outcome),
        ("/items/{n}", Outcome::Abandoned)
    );
}
