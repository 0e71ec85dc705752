//! What the supervision of tasks costs while many requests with a task are open: CPU time of this
//! process, with short requests in between whose tasks run into their grace period.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_memory::{MemoryLayer, RequestScope};

/// CPU time of this process so far, from Linux: user and system, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(") ").next().expect("fields").split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(10 * ticks)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for open in [0, 10_000, 50_000] {
        let layer = MemoryLayer::builder()
            .grace_period(Duration::from_secs(1))
            .build()
            .expect("valid settings");
        let mut service = layer.layer(service_fn(|request: Request<bool>| async move {
            let scope = request.extensions().get::<RequestScope>();
            drop(scope.expect("inside the layer").spawn(pending::<()>()));
            if *request.body() {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let mut kept: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
        for _ in 0..open {
            let mut request = Box::pin(service.call(Request::new(true)));
            poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx).is_pending())).await;
            kept.push(request);
        }
        let mut short = async |requests: usize| {
            let mut slowest = Duration::ZERO;
            for _ in 0..requests {
                let start = Instant::now();
                drop(service.call(Request::new(false)).await);
                slowest = slowest.max(start.elapsed());
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            slowest
        };
        short(400).await;
        let (before, start) = (cpu(), Instant::now());
        let slowest = short(700).await;
        let share = (cpu() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        println!(
            "{open} open requests with a task: {:.1} % of a core, slowest request {slowest:.1?}",
            100.0 * share
        );
        drop(kept);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
}
