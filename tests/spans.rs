//! The `tracing` spans that tasks run in. A binary of its own: the subscriber is the process's.
#![cfg(feature = "tracing")]
#![forbid(unsafe_code)]

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::task::{JoinSet, LocalSet};
use tower::{Layer, ServiceExt, service_fn};
use tower_memory::{MemoryLayer, RequestScope};
use tracing::{Instrument, Span};

/// The name of the span that the calling code runs in.
fn span() -> Option<&'static str> {
    Span::current().metadata().map(|span| span.name())
}

/// The names before and after an `.await`.
async fn spans() -> [Option<&'static str>; 2] {
    let before = span();
    tokio::task::yield_now().await;
    [before, span()]
}

/// Sends the name of the span that it is dropped in.
struct Dropped(std::sync::mpsc::Sender<Option<&'static str>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(span());
    }
}

#[tokio::test]
async fn tasks_run_and_are_dropped_in_the_span_that_started_them() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap();
    let service = MemoryLayer::new().layer(service_fn(|request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().unwrap().clone();
        let handler = async move {
            let request = [Some("request"); 2];
            assert_eq!(scope.spawn(spans()).await.unwrap(), request);
            assert_eq!(scope.spawn_local(spans()).await.unwrap(), request);
            assert_eq!(scope.detach("audit", spans()).await.unwrap(), request);
            assert_eq!(scope.spawn_blocking(span).await.unwrap(), Some("request"));
            let mut set = JoinSet::new();
            set.spawn(scope.track(spans()));
            let inner = tracing::error_span!("inner");
            set.spawn(inner.in_scope(|| scope.track(spans())));
            let mut tracked: Vec<_> = set.join_all().await.into_iter().flatten().collect();
            tracked.sort();
            assert_eq!(tracked, [[Some("inner"); 2], request]);
            // tokio's own tasks are in none.
            assert_eq!(tokio::spawn(spans()).await.unwrap(), [None; 2]);

            let (sender, dropped) = std::sync::mpsc::channel();
            let task = scope.spawn(async move {
                let _dropped = Dropped(sender);
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
            task.abort();
            task.await.unwrap_err();
            assert_eq!(dropped.recv().unwrap(), Some("request"));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        };
        handler.instrument(tracing::error_span!("request"))
    }));
    let request = service.oneshot(Request::new(()));
    drop(LocalSet::new().run_until(request).await.unwrap());
    assert_eq!(span(), None);
}
