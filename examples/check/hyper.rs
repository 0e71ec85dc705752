//! `hyper --check`: sends requests over TCP and checks the responses.

mod client;
mod report;

use std::{error::Error, net::SocketAddr, process::ExitCode};

use http::Method;
use tower_memory::MemoryHandle;

use self::{
    client::Client,
    report::{Report, settled, text},
};

pub(crate) async fn run(
    addr: SocketAddr,
    handle: &MemoryHandle,
) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let client = Client::new(addr);
    let mut report = Report::default();
    let mut answers = Vec::new();
    for (method, path) in [
        (Method::GET, "/first"),
        (Method::GET, "/again"),
        (Method::HEAD, "/again"),
    ] {
        let answer = client.send(method.clone(), path).await?;
        report.received(
            &format!("{method} {path}"),
            answer.status.as_str(),
            &answer.headers,
        );
        // The arena returns after the server has written the response.
        settled(handle, |snapshot| snapshot.pool.rented == 0).await;
        answers.push(answer);
    }

    let mut expect = |name: &str, expected: [&str; 3]| {
        let seen: Vec<_> = answers.iter().map(|a| text(&a.headers, name)).collect();
        report.expect(seen == expected, format!("{name}: {}", seen.join(", ")));
    };
    expect("x-alloc-route", ["hello", "hello", "hello"]);
    expect("x-arena-source", ["fresh", "pool", "pool"]);
    expect("content-length", ["14", "14", "14"]);
    let bodies: Vec<_> = answers.iter().map(|answer| &answer.body[..]).collect();
    report.expect(
        bodies == [&b"hello, /first\n"[..], b"hello, /again\n", b""],
        "the bodies are complete, and HEAD has none",
    );
    report.expect(
        answers
            .iter()
            .all(|answer| answer.headers.contains_key("x-alloc-count")),
        "each response has heap figures",
    );
    report.expect_nothing_left(handle).await;
    Ok(report.finish())
}
