//! Without an installed `TrackingAllocator` every figure of the heap is absent, never zero.
#![expect(unsafe_code, reason = "calls an allocator that is not installed")]

use std::{
    alloc::{GlobalAlloc, Layout},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{
    Account, MemoryLayer, RequestScope, ScopeReport, TrackingAllocator,
    account::{is_installed, process_usage, thread_usage},
};

#[test]
fn nothing_is_known_of_the_heap() {
    assert!(!is_installed());
    assert_eq!(process_usage(), None);
    assert_eq!(thread_usage(), None);
    let account = Account::new();
    assert_eq!(account.in_scope(|| vec![1_u8; 100]).len(), 100);
    assert_eq!(account.usage(), None);
    let guard = account.enter();
    assert_eq!(account.usage(), None, "inside, too");
    drop(guard);
}

#[test]
fn an_allocator_that_is_only_called_directly_does_not_count_as_installed() {
    static DIRECT: TrackingAllocator = TrackingAllocator::system();
    let layout = Layout::from_size_align(64, 8).unwrap();
    let call = || {
        // SAFETY: the layout is not zero-sized; each block is given back once, with the layout it
        // has then.
        unsafe {
            let block = DIRECT.alloc(layout);
            assert!(!block.is_null());
            let block = DIRECT.realloc(block, layout, 128);
            assert!(!block.is_null());
            DIRECT.dealloc(block, Layout::from_size_align(128, 8).unwrap());
            let zeroed = DIRECT.alloc_zeroed(layout);
            assert!(!zeroed.is_null());
            assert_eq!(zeroed.add(63).read(), 0);
            DIRECT.dealloc(zeroed, layout);
        }
    };
    call();
    assert!(!is_installed());
    call();
    assert_eq!(process_usage(), None);
    assert_eq!(thread_usage(), None);
    let account = Account::new();
    account.in_scope(call);
    assert_eq!(account.usage(), None);
}

#[tokio::test]
async fn a_request_has_no_heap_figures_and_all_others() {
    let reports = Arc::new(Mutex::new(Vec::<ScopeReport>::new()));
    let layer = MemoryLayer::builder()
        .observe({
            let reports = Arc::clone(&reports);
            move |report: &ScopeReport| reports.lock().unwrap().push(report.clone())
        })
        .build()
        .unwrap();
    let handle = layer.handle();
    let service = layer.layer(service_fn(async |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let body = vec![7_u8; 100];
        assert_eq!(scope.usage(), None);
        scope.arena().alloc_str("1234");
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
    }));

    let response = service.oneshot(Request::new(())).await.unwrap();
    let headers = response.headers();
    for name in ["x-alloc-bytes", "x-alloc-count", "x-alloc-peak"] {
        assert!(!headers.contains_key(name), "{name} is there");
    }
    assert_eq!(headers["x-arena-bytes"], "4");
    assert_eq!(headers["x-arena-source"], "fresh");
    assert_eq!(headers["x-alloc-route"], "{unmatched}");
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        [7; 100].as_slice()
    );

    handle.flush_observers();
    let reports = reports.lock().unwrap();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].usage, None);
    assert_eq!(reports[0].arena.bytes, 4);
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.routes[0].requests, 1);
    assert_eq!(snapshot.routes[0].bytes, None);
    assert_eq!(snapshot.routes[0].allocations, None);
    assert_eq!(snapshot.routes[0].arena_bytes.as_ref().unwrap().total, 4);
    #[cfg(feature = "serde")]
    {
        let json = serde_json::to_value(&snapshot).unwrap();
        let row = &json["routes"][0];
        for name in ["bytes", "allocations", "peak_bytes", "held_after_close"] {
            assert!(row[name].is_null(), "{name}: {row}");
        }
    }
    #[cfg(feature = "prometheus")]
    {
        use prometheus_client::{encoding::text::encode, registry::Registry};

        let mut registry = Registry::default();
        registry.register_collector(Box::new(handle.collector()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let has = |name: &str| text.lines().any(|line| line.starts_with(name));
        for name in [
            "request_allocated_bytes",
            "request_allocations",
            "request_peak_bytes",
            "held_after_close_bytes",
        ] {
            assert!(!has(&format!("tower_memory_{name}")), "{name}: {text}");
        }
        assert!(has("tower_memory_request_arena_bytes_sum"), "{text}");
    }
}
