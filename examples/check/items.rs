//! `items --check`: sends requests over TCP and checks the responses.

mod client;
mod report;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::http::Method;
use tower_memory::{MemoryHandle, Outcome};

use self::{
    client::{Answer, Client},
    report::{Report, settled, text},
};
use super::{CHUNKS, MAX_ITEMS};

const COUNT: &str = "x-alloc-count";

/// Incremented by each task of `/slow` when it ends.
pub(crate) static SLOW_TASKS_ENDED: AtomicUsize = AtomicUsize::new(0);

struct Check<'a> {
    client: Client,
    report: Report,
    handle: &'a MemoryHandle,
}

impl Check<'_> {
    async fn send(
        &mut self,
        method: Method,
        path: &str,
    ) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let answer = self.client.send(method.clone(), path).await?;
        let request = format!("{method} {path}");
        self.report
            .received(&request, answer.status.as_str(), &answer.headers);
        // The arena returns after the server has written the response.
        settled(self.handle, |snapshot| snapshot.pool.rented == 0).await;
        Ok(answer)
    }

    async fn get(&mut self, path: &str) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        self.send(Method::GET, path).await
    }
}

pub(crate) async fn run(
    addr: SocketAddr,
    handle: &MemoryHandle,
) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let mut check = Check {
        client: Client::new(addr),
        report: Report::default(),
        handle,
    };
    // The first requests of a route grow its arena.
    for path in ["/vec/1000", "/buf/1000", "/arena/1000", "/arena/1000"] {
        check.client.send(Method::GET, path).await?;
        settled(handle, |snapshot| snapshot.pool.rented == 0).await;
    }
    let vec = check.get("/vec/1000").await?;
    let arena = check.get("/arena/1000").await?;
    let buf = check.get("/buf/1000").await?;
    let head = check.send(Method::HEAD, "/arena/1000").await?;
    let slow = check.get("/slow").await?;
    let stream = check.get("/stream").await?;
    let too_many = check.get(&format!("/vec/{}", MAX_ITEMS + 1)).await?;
    let no_number = check.get("/arena/many").await?;
    let unknown = check.get("/nothing/here").await?;
    let stats = check.get("/stats").await?;
    let debug = check.get("/debug").await?;

    let mut report = check.report;
    let items: Vec<String> = (0..1000).map(|i| format!("item-{i}")).collect();
    report.expect(
        serde_json::from_slice::<Vec<String>>(&vec.body)? == items
            && vec.body == arena.body
            && vec.body == buf.body,
        format!(
            "all three handlers return the same {} bytes of JSON",
            vec.body.len()
        ),
    );
    let many = count(&vec);
    report.expect(
        many >= Some(1000),
        format!("/vec: {} heap allocations", text(&vec.headers, COUNT)),
    );
    for (name, answer) in [("/arena", &arena), ("/buf", &buf)] {
        report.expect(
            matches!((count(answer), many), (Some(few), Some(many)) if few * 50 <= many),
            format!(
                "{name}: {}, at most 1/50 of that",
                text(&answer.headers, COUNT)
            ),
        );
        report.expect(
            text(&answer.headers, "x-arena-source") == "pool",
            format!("{name}: the arena comes from the pool"),
        );
    }
    report.expect(
        head.status == 200 && head.body.is_empty(),
        "HEAD returns the head only",
    );

    let slow_tasks = settled(handle, |snapshot| snapshot.tasks == 0).await.tasks;
    let ended = SLOW_TASKS_ENDED.load(Ordering::Relaxed);
    report.expect(slow.status == 504, "/slow: 504");
    report.expect(
        text(&slow.headers, "content-type") == "application/problem+json"
            && serde_json::from_slice::<serde_json::Value>(&slow.body)?["status"] == 504,
        format!("/slow: {}", String::from_utf8_lossy(&slow.body)),
    );
    report.expect(
        (ended, slow_tasks) == (1, 0),
        format!("/slow: {ended} task ended by itself, {slow_tasks} left"),
    );
    let lines: String = (0..CHUNKS)
        .map(|i| format!("chunk {i} of {CHUNKS}\n"))
        .collect();
    report.expect(stream.body == lines, "/stream: all chunks arrived");

    report.expect(
        too_many.status == 400
            && too_many
                .body
                .starts_with(format!("{} items exceed", MAX_ITEMS + 1).as_bytes()),
        format!(
            "too many items: {}",
            String::from_utf8_lossy(&too_many.body).trim_end()
        ),
    );
    report.expect(no_number.status == 400, "not a number: 400");
    report.expect(
        unknown.status == 404 && text(&unknown.headers, "x-alloc-route") == "{unmatched}",
        "unknown path: 404, counted under {unmatched}",
    );
    report.expect(
        stats.status == 200 && stats.body.starts_with(b"method  route "),
        "/stats: a table; the route is not covered by the layer",
    );
    report.expect(
        debug.status == 200 && String::from_utf8_lossy(&debug.body).contains("GET /arena/{n}"),
        "/debug: a page with the routes, for loopback only",
    );
    report.expect_nothing_left(handle).await;
    let outcomes = |route: &str, outcome| {
        let snapshot = handle.snapshot();
        let route = snapshot
            .routes
            .iter()
            .find(|seen| seen.route.as_str() == route);
        route.map(|seen| (seen.outcomes.get(outcome), seen.outcomes.total()))
    };
    report.expect(
        outcomes("/slow", Outcome::DeadlineExceeded) == Some((1, 1))
            && outcomes("/stream", Outcome::Completed) == Some((1, 1)),
        "statistics: /slow deadline_exceeded, /stream completed",
    );
    println!();
    Ok(report.finish())
}

fn count(answer: &Answer) -> Option<u64> {
    text(&answer.headers, COUNT).parse().ok()
}
